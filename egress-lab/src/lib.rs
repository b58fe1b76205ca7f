//! A laboratory for tests and the demo: throw-away network namespaces, real origins, a real name
//! server, a look at the wire, and the programs that all this needs.
//!
//! Everything here ends with the process that made it, however that ends: namespaces have no
//! name, children are bound to their parent, and [`sweep::on_signals`] removes what files are left.

pub mod authority;
pub mod bpf_fs;
pub mod cgroup;
pub mod debian;
pub mod deployment;
pub mod etc;
pub mod http;
pub mod lab;
mod mounts;
pub mod names;
pub mod namespace;
pub mod origins;
pub mod process;
pub mod sweep;
pub mod tools;
pub mod wait;
pub mod wheel;
pub mod wire;
#[cfg(feature = "workload-api")]
pub mod workload_api;

pub use authority::Authority;
pub use bpf_fs::BpfFs;
pub use cgroup::Cgroup;
pub use deployment::Deployment;
pub use etc::{Hosts, ResolvConf};
pub use lab::{Host, Lab};
pub use names::Names;
pub use namespace::Namespace;
pub use origins::{Origins, Site};
pub use process::Process;
pub use wire::Wire;
