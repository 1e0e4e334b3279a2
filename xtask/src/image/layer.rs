//! The one layer of the image: the binary, and nothing else. A runtime makes the mount points by itself.

use std::io::Write;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use tar::{Builder, Header};

/// Packs `files` (path, content, mode) in the given order. Owner and time are those of nobody and no time, so that the
/// same files give the same bytes.
pub(super) fn tar<'a>(
    files: impl IntoIterator<Item = (&'a str, &'a [u8], u32)>,
) -> Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for (path, content, mode) in files {
        let mut header = Header::new_ustar();
        header.set_size(u64::try_from(content.len())?);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        builder
            .append_data(&mut header, path, content)
            .with_context(|| format!("cannot pack {path}"))?;
    }
    Ok(builder.into_inner()?)
}

/// Compresses; neither a name nor a time goes into the header.
pub(super) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}
