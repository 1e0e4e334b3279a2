//! The source ports of masqueraded flows, kept from the host's own connections: merged into
//! `net.ipv4.ip_local_reserved_ports` of the agent's network namespace.
//!
//! What we added to it is remembered beside the maps, as the target of a symbolic link (a BPF file system
//! holds no files), so that cleanup takes away that and nothing else.

use std::{collections::BTreeSet, fmt::Write as _, fs, io, path::Path};

use crate::maps::pinned::reserved_ports_note;

const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// Reserves the ports from `lo` to `hi`; what an earlier agent added beyond them is given back.
///
/// # Errors
/// /proc/sys is read-only, or what was there cannot be remembered.
pub fn reserve(root: &Path, (lo, hi): (u16, u16)) -> io::Result<()> {
    let held = parse(&fs::read_to_string(RESERVED)?);
    let ours = noted(root);
    let (wanted, note) = plan(&held, &ours, &(lo..=hi).collect());
    if wanted == held && note == ours {
        return Ok(());
    }
    // First the note: ports that nobody remembers adding would stay for ever.
    write_note(root, &note)?;
    fs::write(RESERVED, format(&wanted)).inspect_err(|_| {
        if let Err(error) = write_note(root, &ours) {
            tracing::debug!(%error, "the note of reserved ports says too much");
        }
    })
}

/// Gives back what we added; true if there was something.
///
/// # Errors
/// /proc/sys is read-only.
pub fn release(root: &Path) -> io::Result<bool> {
    let ours = noted(root);
    if !ours.is_empty() {
        let held = parse(&fs::read_to_string(RESERVED)?);
        fs::write(RESERVED, format(&(&held - &ours)))?;
    }
    match fs::remove_file(reserved_ports_note(root)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(!ours.is_empty()),
    }
}

type Ports = BTreeSet<u16>;

/// What should be reserved in all, and which of it was added by us.
fn plan(held: &Ports, ours: &Ports, wanted: &Ports) -> (Ports, Ports) {
    let others = held - ours;
    let note = wanted - &others;
    (&others | wanted, note)
}

fn noted(root: &Path) -> Ports {
    fs::read_link(reserved_ports_note(root))
        .map(|note| parse(&note.to_string_lossy()))
        .unwrap_or_default()
}

fn write_note(root: &Path, ports: &Ports) -> io::Result<()> {
    let path = reserved_ports_note(root);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if ports.is_empty() {
        return Ok(());
    }
    std::os::unix::fs::symlink(format(ports), path)
}

/// As the kernel writes it: `8080,9000-9010`.
fn parse(text: &str) -> Ports {
    let ranges = text.trim().split(',').filter_map(|item| {
        let (lo, hi) = item.split_once('-').unwrap_or((item, item));
        Some(lo.trim().parse::<u16>().ok()?..=hi.trim().parse::<u16>().ok()?)
    });
    ranges.flatten().collect()
}

fn format(ports: &Ports) -> String {
    let mut text = String::new();
    let mut rest = ports.iter().copied().peekable();
    while let Some(lo) = rest.next() {
        let mut hi = lo;
        while let Some(next) = rest.next_if(|next| Some(*next) == hi.checked_add(1)) {
            hi = next;
        }
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        let _written = if lo == hi {
            write!(text, "{comma}{lo}")
        } else {
            write!(text, "{comma}{lo}-{hi}")
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_and_written_as_the_kernel_does() {
        for text in ["", "8080", "8080,9000-9010", "1-2,65535"] {
            assert_eq!(format(&parse(text)), text);
        }
        assert_eq!(parse("8080,9000-9001\n"), Ports::from([8080, 9000, 9001]));
    }

    #[test]
    fn what_others_reserved_is_neither_noted_nor_given_back() {
        let others = parse("80,102");
        let (held, ours) = plan(&others, &Ports::new(), &parse("100-105"));
        assert_eq!(format(&held), "80,100-105");
        assert_eq!(format(&ours), "100-101,103-105");
        // Another range, later: the old one's are given back.
        let (held, ours) = plan(&held, &ours, &parse("200-201"));
        assert_eq!(format(&held), "80,102,200-201");
        assert_eq!(format(&ours), "200-201");
        assert_eq!(&held - &ours, others);
    }

    #[test]
    fn the_same_again_changes_nothing() {
        let (held, ours) = plan(&parse("100-105"), &parse("100-105"), &parse("100-105"));
        assert_eq!(
            (format(&held), format(&ours)),
            ("100-105".into(), "100-105".into())
        );
    }
}
