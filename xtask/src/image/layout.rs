//! The OCI image layout (image-layout.md of the image-spec 1.1), as one tar file: blobs by digest, and an index that
//! names the image.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::layer::{gzip, tar};
use super::{NAME, Platform};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image has a time of creation. This one is as good as any, and always the same.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// A packed image.
#[derive(Debug)]
pub struct Archive {
    /// The tar file.
    pub bytes: Vec<u8>,
    /// What a runtime calls the image's digest.
    pub digest: String,
}

/// Packs the image: its manifest, or where there are several platforms an index of their manifests.
///
/// # Errors
/// When a blob cannot be packed.
pub fn archive(platforms: &[Platform]) -> Result<Archive> {
    let mut blobs = Blobs::default();
    let mut manifests = platforms
        .iter()
        .map(|platform| blobs.platform(platform))
        .collect::<Result<Vec<Value>>>()?;
    let mut image = match &manifests[..] {
        [_] => manifests.remove(0),
        _ => blobs.add_json(INDEX, &index(&manifests)),
    };
    let digest = image["digest"].as_str().unwrap_or_default().to_owned();
    image["annotations"] = json!({
        // The first is what runtimes of Kubernetes take as the name, the second is the specification's.
        "io.containerd.image.name": NAME,
        "org.opencontainers.image.ref.name": env!("CARGO_PKG_VERSION"),
    });
    let bytes = blobs.into_tar(&index(&[image]))?;
    Ok(Archive { bytes, digest })
}

fn index(manifests: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests })
}

/// Content by its digest, in hexadecimal digits.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Adds layer, configuration and manifest, and returns the manifest's descriptor.
    fn platform(&mut self, platform: &Platform) -> Result<Value> {
        let files = tar([("lb-agent", &platform.binary[..], 0o755)])?;
        let config = json!({
            "architecture": platform.arch.oci(),
            "os": "linux",
            "created": CREATED,
            "config": {
                "Entrypoint": ["/lb-agent"],
                "Labels": {
                    "org.opencontainers.image.title": "lb-agent",
                    "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                    "org.opencontainers.image.licenses": "(MIT OR Apache-2.0) AND (MIT OR GPL-2.0-only)",
                },
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&files))] },
            "history": [{ "created": CREATED, "created_by": "cargo xtask image" }],
        });
        let config = self.add_json(CONFIG, &config);
        let layer = self.add(LAYER, gzip(&files)?);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": [layer],
        });
        let mut manifest = self.add_json(MANIFEST, &manifest);
        manifest["platform"] = json!({ "architecture": platform.arch.oci(), "os": "linux" });
        Ok(manifest)
    }

    fn add_json(&mut self, media_type: &str, value: &Value) -> Value {
        self.add(media_type, value.to_string().into_bytes())
    }

    /// Adds a blob and returns its descriptor.
    fn add(&mut self, media_type: &str, content: Vec<u8>) -> Value {
        let digest = sha256(&content);
        let descriptor = json!({
            "mediaType": media_type,
            "digest": format!("sha256:{digest}"),
            "size": content.len(),
        });
        self.0.insert(digest, content);
        descriptor
    }

    fn into_tar(self, index: &Value) -> Result<Vec<u8>> {
        let layout = json!({ "imageLayoutVersion": "1.0.0" }).to_string();
        let index = index.to_string();
        let blobs: Vec<(String, Vec<u8>)> = self
            .0
            .into_iter()
            .map(|(digest, content)| (format!("blobs/sha256/{digest}"), content))
            .collect();
        let blobs = blobs
            .iter()
            .map(|(path, content)| (path.as_str(), &content[..], 0o644));
        tar([
            ("oci-layout", layout.as_bytes(), 0o644),
            ("index.json", index.as_bytes(), 0o644),
        ]
        .into_iter()
        .chain(blobs))
    }
}

fn sha256(content: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(content) {
        // Writing to a String cannot fail.
        let _written = write!(text, "{byte:02x}");
    }
    text
}
