//! The file of `--config` (rule 137): when it changes, the agent ends, and whoever keeps it running starts it with the
//! new one. What is compared is the text, so that a ConfigMap that is mounted anew by another symbolic link, and says
//! the same, ends nothing.

use std::{fs, time::Duration};

use tokio::time::sleep;

use crate::config::ConfigFile;

/// A file of some kilobytes is read in no time, and reading needs to know nothing of how it is replaced.
const PERIOD: Duration = Duration::from_secs(2);

/// Waits until the file says something else. A file that is gone says nothing: an agent started anew could not run.
///
/// # Errors
/// Always, at the end: it has changed.
pub async fn follow(file: Option<ConfigFile>) -> anyhow::Result<()> {
    match file {
        Some(file) => look_every(PERIOD, file).await,
        None => std::future::pending().await,
    }
}

async fn look_every(period: Duration, file: ConfigFile) -> anyhow::Result<()> {
    let mut is_missing = false;
    loop {
        sleep(period).await;
        match fs::read_to_string(&file.path) {
            Ok(text) if text == file.text => is_missing = false,
            Ok(_) => {
                tracing::warn!(file = %file.path.display(), "the configuration file has changed: ending, to be started again with it");
                anyhow::bail!(
                    "--config {} has changed; start the agent again",
                    file.path.display()
                );
            }
            Err(error) => {
                if !is_missing {
                    tracing::warn!(file = %file.path.display(), %error, "the configuration file cannot be read; what was read stays in force");
                }
                is_missing = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const QUICK: Duration = Duration::from_millis(5);

    /// As a kubelet mounts a ConfigMap: the file is a link into a folder that is a link.
    #[tokio::test]
    async fn a_change_is_seen_through_links_and_the_same_text_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let generation = |name: &str, text: &str| {
            fs::create_dir(at(name)).expect("a folder");
            fs::write(at(name).join("config.conf"), text).expect("a file");
            fs::remove_file(at("..data")).ok();
            symlink(at(name), at("..data")).expect("a link");
        };
        generation("1", "a");
        symlink(at("..data/config.conf"), at("config.conf")).expect("a link");
        let file = ConfigFile {
            path: at("config.conf"),
            text: "a".to_owned(),
        };
        let followed = tokio::spawn(look_every(QUICK, file));
        generation("2", "a");
        sleep(QUICK * 20).await;
        fs::remove_file(at("..data")).expect("it was there");
        sleep(QUICK * 20).await;
        assert!(!followed.is_finished());
        generation("3", "b");
        let error = followed.await.expect("no panic").expect_err("it changed");
        assert!(
            error.to_string().contains("config.conf has changed"),
            "{error}"
        );
    }
}
