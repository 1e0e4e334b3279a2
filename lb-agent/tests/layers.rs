//! The picture in `lib.rs` and the promises of the crates, held against the sources.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use lb_common::map_table::{MAPS, PACKET_PROGRAMS, PROGRAMS};

/// Every Rust source below a path of the workspace.
fn sources(below: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    let mut left = vec![root.join(below)];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            left.extend(entries.map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((short(&path, &root), text));
        }
    }
    assert!(!found.is_empty(), "nothing below {below}");
    found.sort();
    found
}

fn short(path: &Path, root: &Path) -> String {
    let path: PathBuf = path.strip_prefix(root).unwrap().into();
    path.display().to_string()
}

/// Source lines that are code and hold the word.
fn uses<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    let has_word = |line: &&str| {
        line.split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|found| found == word)
    };
    text.lines().filter(is_code).filter(has_word).collect()
}

#[test]
fn the_pure_parts_know_neither_kube_nor_aya_nor_tokio() {
    for part in [
        "lb-agent/src/model",
        "lb-agent/src/eligible.rs",
        "lb-agent/src/plan",
        "lb-agent/src/devices/select.rs",
        "lb-agent/src/devices/link.rs",
    ] {
        for (path, text) in sources(part) {
            for word in ["kube", "k8s_openapi", "aya", "tokio"] {
                assert_eq!(uses(&text, word), [""; 0], "{path} uses {word}");
            }
        }
    }
}

#[test]
fn the_pure_parts_do_no_input_or_output() {
    for part in [
        "lb-agent/src/model",
        "lb-agent/src/eligible.rs",
        "lb-agent/src/plan",
    ] {
        for (path, text) in sources(part) {
            for word in [
                "fs",
                "io",
                "thread",
                "Instant",
                "SystemTime",
                "process",
                "println",
            ] {
                assert_eq!(uses(&text, word), [""; 0], "{path} uses {word}");
            }
        }
    }
}

#[test]
fn unsafe_code_of_the_common_crate_is_in_one_file() {
    for (path, text) in sources("lb-common/src") {
        if !path.ends_with("pod.rs") {
            assert_eq!(uses(&text, "unsafe"), [""; 0], "{path}");
        }
    }
}

#[test]
fn only_the_address_file_of_the_common_crate_swaps_bytes() {
    for (path, text) in sources("lb-common/src") {
        // Beside it those that read and write headers of the wire.
        let allowed = ["net.rs", "parse.rs", "answer.rs", "sctp.rs", "csum.rs"];
        if allowed
            .iter()
            .any(|name| path.ends_with(&format!("/{name}")))
        {
            continue;
        }
        for word in ["from_be_bytes", "from_be", "to_be", "swap_bytes"] {
            assert_eq!(uses(&text, word), [""; 0], "{path} uses {word}");
        }
    }
}

#[test]
fn unsafe_code_of_the_programs_is_in_the_files_for_it() {
    // Maps, attributes of entry points, and fields and helpers of the three kinds of contexts.
    let allowed = [
        "maps.rs",
        "flows.rs",
        "programs.rs",
        "sock.rs",
        "sock_addr.rs",
        "packet.rs",
        "stages.rs",
    ];
    for (path, text) in sources("lb-ebpf/src") {
        if !allowed
            .iter()
            .any(|name| path.ends_with(&format!("/{name}")))
        {
            assert_eq!(uses(&text, "unsafe"), [""; 0], "{path}");
        }
    }
}

#[test]
fn the_kernel_keeps_every_name_whole() {
    let maps = MAPS.iter().map(|map| map.name);
    let programs = PROGRAMS
        .iter()
        .chain(PACKET_PROGRAMS)
        .map(|(program, _)| *program);
    for name in maps.chain(programs) {
        assert!(name.len() <= 15, "{name} has {} bytes", name.len());
    }
}
