//! Which API server, and as whom.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kube::{
    Client, Config,
    client::ClientBuilder,
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use super::{outage::Outage, requests::Paced};
use crate::{config::ApiRate, observe::requests::Requests};

/// A server that is there answers a connect at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing comes for this long is dead: a list is on its way long before, and
/// watches bring a bookmark every minute.
const READ_TIMEOUT: Duration = Duration::from_secs(150);

/// There is no telling which server is meant, or it cannot be talked to.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file named by `--kubeconfig`.
    #[error("--kubeconfig {}: {source}; correct the file or name another one", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: KubeconfigError,
    },
    /// No flag, and no pod either.
    #[error(
        "no source of Services: this is not a pod of a cluster ({0}); give --kubeconfig FILE, \
         --master URL or --manifests DIR"
    )]
    NotInCluster(#[from] InClusterError),
    /// The URL of `--master`.
    #[error("--master {url}: {problem}; write it as https://host:port")]
    Master {
        /// As given.
        url: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// Certificates, keys and the like.
    #[error(
        "no connection to the API server can be set up: {0}; correct its certificates and credentials"
    )]
    Setup(#[from] kube::Error),
}

/// As kube-proxy: the kubeconfig, else the cluster we run in; `master` replaces the server of the
/// kubeconfig, and without one is talked to as nobody.
pub(super) async fn open(
    kubeconfig: Option<&Path>,
    master: Option<&str>,
    rate: Option<ApiRate>,
    requests: Arc<Requests>,
) -> Result<Client, ClientError> {
    let master = master.map(server_url).transpose()?;
    let mut config = match (kubeconfig, &master) {
        (Some(path), _) => from_file(path).await?,
        (None, Some(url)) => Config::new(url.clone()),
        (None, None) => Config::incluster()?,
    };
    if let Some(url) = master {
        config.cluster_url = url;
    }
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    let outage = Outage::of(config.cluster_url.to_string());
    requests.set_host(
        config
            .cluster_url
            .authority()
            .map_or("", |host| host.as_str()),
    );
    let client = ClientBuilder::try_from(config)?
        .with_layer(&outage.layer())
        .with_layer(&Paced::new(rate, requests));
    Ok(client.build())
}

async fn from_file(path: &Path) -> Result<Config, ClientError> {
    let wrong = |source| ClientError::Kubeconfig {
        path: path.to_owned(),
        source,
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    config.map_err(wrong)
}

fn server_url(text: &str) -> Result<http::Uri, ClientError> {
    let wrong = |problem| ClientError::Master {
        url: text.to_owned(),
        problem,
    };
    let url: http::Uri = text.parse().map_err(|_| wrong("is not a URL"))?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err(wrong("has neither the scheme http nor https"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_needs_scheme_and_host() {
        let problem = |text: &str| match server_url(text) {
            Err(error) => error.to_string(),
            Ok(url) => url.to_string(),
        };
        assert_eq!(problem("https://10.0.0.1:6443"), "https://10.0.0.1:6443/");
        assert_eq!(
            problem("10.0.0.1:6443"),
            "--master 10.0.0.1:6443: has neither the scheme http nor https; write it as \
             https://host:port"
        );
        assert_eq!(
            problem("https://"),
            "--master https://: is not a URL; write it as https://host:port"
        );
    }

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named() {
        let error = open(
            Some(Path::new("/nonexistent/config")),
            None,
            None,
            Arc::default(),
        )
        .await;
        let text = error.err().expect("there is no such file").to_string();
        assert!(
            text.starts_with("--kubeconfig /nonexistent/config: "),
            "{text}"
        );
    }
}
