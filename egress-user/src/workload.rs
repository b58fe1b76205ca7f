//! Who opened a connection: what policy may ask about, what the header carries, what the record says.

use serde::Serialize;

/// The workload that a connection belongs to. What is not known is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Kubernetes namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Pod name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Kubernetes service account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// Container name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Path of the cgroup below the cgroup v2 mount point, starting with `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// User id that the socket belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
}

/// The process that called `connect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Process id (thread group) in the initial pid namespace.
    pub pid: u32,
    /// The kernel's command name, at most 15 bytes, lossily decoded.
    pub comm: String,
    /// User id.
    pub uid: u32,
}
