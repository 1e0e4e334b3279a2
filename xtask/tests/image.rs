//! The archive of `cargo xtask image`, taken apart as a runtime does: every blob is what its descriptor says, and the
//! root that comes out holds a binary that runs.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails: the line says most"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitCode};

use flate2::read::GzDecoder;
use libtest_mimic::{Arguments, Completion, Trial};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use xtask::image::{Arch, Platform, archive};

/// Where `cargo xtask test` says that the static binary is.
const STATIC_AGENT: &str = "LB_STATIC_AGENT";

fn main() -> ExitCode {
    let test = |name: &str, run: fn()| {
        Trial::test(name, move || {
            run();
            Ok(())
        })
    };
    let trials = vec![
        test("every_blob_is_what_its_descriptor_says", blobs),
        test(
            "an_image_of_two_platforms_has_an_index_of_both",
            two_platforms,
        ),
        test("the_same_binary_gives_the_same_bytes", same_bytes),
        Trial::ignorable_test("the_binary_runs_in_its_own_root", || {
            match reason_to_skip() {
                Some(reason) => Ok(Completion::ignored_with(reason)),
                None => {
                    runs();
                    Ok(Completion::Completed)
                }
            }
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// The files of an archive.
struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    fn of(platforms: &[Platform]) -> Self {
        let bytes = archive(platforms).unwrap().bytes;
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            assert!(files.insert(path, content).is_none());
        }
        Self(files)
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&self.0[path]).unwrap()
    }

    /// The image's descriptor in index.json.
    fn image(&self) -> Value {
        assert_eq!(
            self.json("oci-layout"),
            json!({ "imageLayoutVersion": "1.0.0" })
        );
        let index = self.json("index.json");
        assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
        index["manifests"][0].clone()
    }

    /// The blob that a descriptor names, with its digest and size looked after.
    fn blob(&self, descriptor: &Value) -> &[u8] {
        let digest = descriptor["digest"].as_str().unwrap();
        let content = &self.0[&format!("blobs/{}", digest.replace(':', "/"))];
        assert_eq!(sha256(content), digest);
        assert_eq!(descriptor["size"], content.len());
        content
    }

    fn json_blob(&self, descriptor: &Value) -> Value {
        serde_json::from_slice(self.blob(descriptor)).unwrap()
    }

    /// The configuration, and the files of the one layer unpacked into `root`.
    fn unpack(&self, manifest: &Value, root: &Path) -> Value {
        let config = self.json_blob(&manifest["config"]);
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
        let mut files = Vec::new();
        let layer = self.blob(&manifest["layers"][0]);
        GzDecoder::new(layer).read_to_end(&mut files).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], json!([sha256(&files)]));
        tar::Archive::new(&files[..]).unpack(root).unwrap();
        config
    }
}

fn sha256(content: &[u8]) -> String {
    let digits: String = Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{digits}")
}

fn platform(arch: Arch, binary: &[u8]) -> Platform {
    Platform {
        arch,
        binary: binary.to_owned(),
    }
}

fn blobs() {
    let files = Files::of(&[platform(Arch::Amd64, b"a binary")]);
    let image = files.image();
    assert_eq!(
        image["mediaType"],
        "application/vnd.oci.image.manifest.v1+json"
    );
    let name = image["annotations"]["io.containerd.image.name"]
        .as_str()
        .unwrap();
    assert!(name.starts_with("localhost/lb-agent:"), "{name}");
    let root = tempfile::tempdir().unwrap();
    let config = files.unpack(&files.json_blob(&image), root.path());
    assert_eq!(config["architecture"], "amd64");
    assert_eq!(config["os"], "linux");
    assert_eq!(config["config"]["Entrypoint"], json!(["/lb-agent"]));
    assert_eq!(fs::read(root.path().join("lb-agent")).unwrap(), b"a binary");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    // oci-layout, index.json, manifest, configuration, layer.
    assert_eq!(files.0.len(), 5);
}

fn two_platforms() {
    let files = Files::of(&[
        platform(Arch::Amd64, b"one"),
        platform(Arch::Arm64, b"other"),
    ]);
    let image = files.image();
    assert_eq!(
        image["mediaType"],
        "application/vnd.oci.image.index.v1+json"
    );
    let index = files.json_blob(&image);
    let manifests = index["manifests"].as_array().unwrap();
    let found: Vec<(Value, Vec<u8>)> = manifests
        .iter()
        .map(|descriptor| {
            let root = tempfile::tempdir().unwrap();
            let config = files.unpack(&files.json_blob(descriptor), root.path());
            assert_eq!(
                config["architecture"],
                descriptor["platform"]["architecture"]
            );
            (
                config["architecture"].clone(),
                fs::read(root.path().join("lb-agent")).unwrap(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            (json!("amd64"), b"one".to_vec()),
            (json!("arm64"), b"other".to_vec())
        ]
    );
}

fn same_bytes() {
    let pack = |binary| archive(&[platform(Arch::Amd64, binary)]).unwrap();
    let (first, second, other) = (pack(b"one"), pack(b"one"), pack(b"other"));
    assert_eq!(first.bytes, second.bytes);
    assert_eq!(first.digest, second.digest);
    assert_ne!(first.digest, other.digest);
}

fn reason_to_skip() -> Option<&'static str> {
    if std::env::var_os(STATIC_AGENT).is_none() {
        return Some("needs the static binary: run `cargo xtask test netns`");
    }
    (!nix::unistd::geteuid().is_root()).then_some("chroot needs root")
}

fn runs() {
    let binary = fs::read(std::env::var_os(STATIC_AGENT).unwrap()).unwrap();
    let files = Files::of(&[platform(Arch::host().unwrap(), &binary)]);
    let root = tempfile::tempdir().unwrap();
    let config = files.unpack(&files.json_blob(&files.image()), root.path());
    let entrypoint = config["config"]["Entrypoint"][0].as_str().unwrap();
    let output = Command::new("chroot")
        .arg(root.path())
        .args([entrypoint, "--version"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.trim(), concat!("lb-agent ", env!("CARGO_PKG_VERSION")));
}
