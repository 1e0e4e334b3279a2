//! `--oom-score-adj`: how likely the kernel is to end this process when memory runs out.

use std::{fs, io, path::Path};

const SCORE: &str = "/proc/self/oom_score_adj";

/// Sets the score; it is a wish, and not having it stops nothing.
pub fn adjust(score: i32) {
    if let Err(error) = write(Path::new(SCORE), score) {
        tracing::warn!(%error, score, "the kernel may end the agent when memory runs out: let it write {SCORE} (CAP_SYS_RESOURCE), or give --oom-score-adj 0");
    }
}

/// A score that is there already needs no right.
fn write(path: &Path, score: i32) -> io::Result<()> {
    let is_there = fs::read_to_string(path)?.trim().parse() == Ok(score);
    if is_there {
        return Ok(());
    }
    fs::write(path, score.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_written_where_it_differs() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("oom_score_adj");
        fs::write(&path, "0\n").expect("a file");
        write(&path, -999).expect("it is written");
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "-999");
        let mut permissions = fs::metadata(&path).expect("it is there").permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&path, permissions).expect("they are set");
        assert!(write(&path, -999).is_ok());
        assert!(write(&folder.path().join("none"), 0).is_err());
    }
}
