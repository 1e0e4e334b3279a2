//! A real control plane on this machine, for tests and for developers: etcd, kube-apiserver and, where wanted,
//! kube-controller-manager, with nothing but Go to build them.
//!
//! [`ensure_binaries`] provides the programs, [`Cluster`] runs them on loopback in a folder of its own and takes them
//! down again. There is no kubelet: who needs a Pod or a Node writes its status by hand.

mod access;
mod audit;
mod binaries;
mod control_plane;
mod etcd;
mod forward;
mod port;
mod process;
mod up;

pub use access::User;
pub use audit::Request;
pub use binaries::{NO_BINARIES, NO_HELM, ensure_binaries, ensure_helm};
pub use control_plane::Cluster;
pub use forward::Forward;
pub use process::Process;
pub use up::up;
