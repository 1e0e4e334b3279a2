//! etcd and kube-apiserver (and kube-controller-manager) on loopback, dual stack, with RBAC.
//!
//! The API server signs service account tokens with the key of the certificate it makes for itself: one RSA pair less
//! to provide.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::access::{ADMIN_TOKEN, NODE_PROXIER_TOKEN, User, write_kubeconfig, write_tokens};
use super::audit::{self, Request};
use super::etcd;
use super::port::free_port;
use super::process::Process;

/// Two busy cores and cold files: ready in 3 s when nothing else runs.
const READY: Duration = Duration::from_secs(120);

/// The dual-stack range that ClusterIPs come from. Not kube's usual one, so that nothing real is hit by accident.
const SERVICE_CIDRS: &str = "10.96.0.0/16,fd00:10:96::/112";

const RBAC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/rbac.yaml");

/// A control plane. Dropping it ends its programs and removes its folder.
pub struct Cluster {
    // Declared, and so dropped, before the folder they write to.
    controllers: Option<Process>,
    api_server: Option<Process>,
    etcd: Process,
    programs: PathBuf,
    api_port: u16,
    etcd_port: u16,
    folder: TempDir,
}

impl Cluster {
    /// Starts etcd and kube-apiserver from the folder `programs` and applies `deploy/rbac.yaml`. Takes about 3 s.
    ///
    /// # Errors
    /// When a program cannot be started or is not ready in time; the message carries the end of its log.
    pub fn start(programs: &Path) -> Result<Self> {
        let folder = TempDir::with_prefix("lb-cluster-")
            .context("cannot make a folder for the control plane")?;
        let (etcd, etcd_port) = start_etcd(programs, folder.path())?;
        let mut cluster = Self {
            controllers: None,
            api_server: None,
            etcd,
            programs: programs.to_owned(),
            api_port: free_port()?,
            etcd_port,
            folder,
        };
        write_tokens(&cluster.folder().join("tokens.csv"))?;
        audit::write_policy(cluster.folder())?;
        cluster.write_kubeconfig(User::Admin, ADMIN_TOKEN)?;
        cluster.write_kubeconfig(User::NodeProxier, NODE_PROXIER_TOKEN)?;
        cluster.start_api_server()?;
        cluster.admit_agent()?;
        Ok(cluster)
    }

    /// Where it keeps its files: logs (`*.log`), kubeconfigs, certificates.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The API server's address on this machine's loopback.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.api_port).into()
    }

    /// The API server's URL, as the kubeconfigs name it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address())
    }

    /// The certificate authority of the API server (PEM).
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder().join("apiserver.crt")
    }

    /// A kubeconfig file for `user`.
    #[must_use]
    pub fn kubeconfig(&self, user: User) -> PathBuf {
        user.kubeconfig(self.folder())
    }

    /// Every request to list or to watch that the API server has had.
    ///
    /// # Errors
    /// When its audit log cannot be read.
    pub fn requests(&self) -> Result<Vec<Request>> {
        audit::requests(self.folder())
    }

    /// Runs kubectl as [`User::Admin`] and returns what it printed.
    ///
    /// # Errors
    /// When kubectl says no; the message carries its words.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self
            .kubectl_command(arguments)
            .output()
            .context("cannot run kubectl")?;
        if !output.status.success() {
            bail!(
                "kubectl {} ended with {}: {}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A plain-HTTP door to the API server with [`User::Admin`]'s rights, as `kubectl proxy` opens it. Returns its URL.
    ///
    /// # Errors
    /// When kubectl cannot be started or its port does not open.
    pub fn plain_http(&self) -> Result<(Process, SocketAddr)> {
        let port = free_port()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let command = self.kubectl_command(&["proxy", "--port", &port.to_string()]);
        let mut proxy = Process::start("kubectl proxy", command, &self.folder().join("proxy.log"))?;
        proxy.wait_until(READY, || std::net::TcpStream::connect(address).is_ok())?;
        Ok((proxy, address))
    }

    /// Starts the API server (again) and waits until it says that it is ready. Does nothing while it runs.
    ///
    /// # Errors
    /// When it ends or is not ready in time.
    pub fn start_api_server(&mut self) -> Result<()> {
        if self.api_server.is_some() {
            return Ok(());
        }
        let log = self.folder().join("kube-apiserver.log");
        let mut api_server = Process::start("kube-apiserver", self.api_server_command(), &log)?;
        api_server.wait_until(READY, || self.kubectl(&["get", "--raw", "/readyz"]).is_ok())?;
        self.api_server = Some(api_server);
        Ok(())
    }

    /// Ends the API server: connections are closed, then refused.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn stop_api_server(&mut self) -> Result<()> {
        let Some(api_server) = self.api_server.take() else {
            return Ok(());
        };
        api_server.stop()
    }

    /// The running API server, to pause and resume it.
    ///
    /// # Errors
    /// When it is stopped.
    pub fn api_server(&self) -> Result<&Process> {
        self.api_server
            .as_ref()
            .context("the API server is stopped")
    }

    /// etcd, to pause and resume it.
    #[must_use]
    pub fn etcd(&self) -> &Process {
        &self.etcd
    }

    /// Makes etcd forget all revisions before now: a watch that resumes from an older one is told 410 Gone. The API
    /// server answers recent watches from its own memory, so the effect shows once it was restarted.
    /// Returns the oldest revision left.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn compact(&self) -> Result<i64> {
        etcd::compact(self.etcd_port)
    }

    /// Writes an object's JSON straight into etcd, past the API server's validation: how objects look that an older
    /// release let in. `resource` is the plural with its group where etcd has one, `endpointslices` or
    /// `services/specs`.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn store_unchecked(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        json: &str,
    ) -> Result<()> {
        etcd::put(
            self.etcd_port,
            &format!("/registry/{resource}/{namespace}/{name}"),
            json,
        )
    }

    /// Whether kube-controller-manager is among the programs (`KUBEBUILDER_ASSETS` brings none).
    #[must_use]
    pub fn has_controllers(&self) -> bool {
        self.programs.join("kube-controller-manager").is_file()
    }

    /// Starts kube-controller-manager with what Services need: slices and Endpoints made from Pods, slices mirrored
    /// from hand-made Endpoints, and the keeper of ServiceCIDRs.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_controllers(&mut self) -> Result<()> {
        let mut command = Command::new(self.programs.join("kube-controller-manager"));
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig(User::Admin))
            .arg(
                "--controllers=endpoints-controller,endpointslice-controller,endpointslice-mirroring-controller,\
                 service-cidr-controller",
            )
            .args(["--leader-elect=false", "--secure-port=0"]);
        let log = self.folder().join("kube-controller-manager.log");
        self.controllers = Some(Process::start("kube-controller-manager", command, &log)?);
        Ok(())
    }

    fn api_server_command(&self) -> Command {
        let folder = self.folder();
        let mut command = Command::new(self.programs.join("kube-apiserver"));
        command
            .arg(format!(
                "--etcd-servers=http://127.0.0.1:{}",
                self.etcd_port
            ))
            .arg(format!("--secure-port={}", self.api_port))
            .args(["--bind-address=127.0.0.1", "--authorization-mode=RBAC"])
            .arg(format!("--cert-dir={}", folder.display()))
            .arg(format!(
                "--token-auth-file={}",
                folder.join("tokens.csv").display()
            ))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!(
                "--service-account-key-file={}",
                self.ca().display()
            ))
            .arg(format!(
                "--service-account-signing-key-file={}",
                folder.join("apiserver.key").display()
            ))
            .arg(format!("--service-cluster-ip-range={SERVICE_CIDRS}"))
            // A Pod needs no service account, and the Service `kubernetes` no endpoint of ours.
            .args([
                "--disable-admission-plugins=ServiceAccount",
                "--endpoint-reconciler-type=none",
            ])
            // As kubeadm has it: the init container of our DaemonSet is privileged, as kube-proxy is.
            .arg("--allow-privileged=true")
            .args(audit::arguments(folder))
            // Ends its watches at once when it is told to end, as a killed machine does.
            .arg("--shutdown-delay-duration=0s");
        command
    }

    fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("kubectl"));
        command
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig(User::Admin))
            .env("HOME", self.folder());
        command
    }

    fn write_kubeconfig(&self, user: User, token: &str) -> Result<()> {
        write_kubeconfig(self.folder(), user, &self.url(), &self.ca(), token)
    }

    /// Applies `deploy/rbac.yaml` and takes a token of its service account.
    fn admit_agent(&self) -> Result<()> {
        // The API server makes the namespace itself, a moment after it is ready.
        let until = Instant::now() + READY;
        while let Err(error) = self.kubectl(&["get", "namespace", "kube-system"]) {
            if Instant::now() > until {
                return Err(error);
            }
        }
        self.kubectl(&["apply", "-f", RBAC])?;
        let token = self.kubectl(&[
            "create",
            "token",
            "lb-agent",
            "--namespace=kube-system",
            "--duration=8h",
        ])?;
        self.write_kubeconfig(User::Agent, token.trim())
    }
}

fn start_etcd(programs: &Path, folder: &Path) -> Result<(Process, u16)> {
    let (clients, peers) = (free_port()?, free_port()?);
    let mut command = Command::new(programs.join("etcd"));
    command
        .arg("--data-dir")
        .arg(folder.join("etcd"))
        .arg(format!("--listen-client-urls=http://127.0.0.1:{clients}"))
        .arg(format!(
            "--advertise-client-urls=http://127.0.0.1:{clients}"
        ))
        .arg(format!("--listen-peer-urls=http://127.0.0.1:{peers}"))
        .arg("--unsafe-no-fsync");
    let mut etcd = Process::start("etcd", command, &folder.join("etcd.log"))?;
    etcd.wait_until(READY, || etcd::is_healthy(clients))?;
    Ok((etcd, clients))
}
