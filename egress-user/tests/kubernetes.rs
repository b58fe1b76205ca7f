//! The manifests in deploy/kubernetes: each field is one that Kubernetes knows, and each container
//! starts with the files that it is given.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of a test fails by panicking, as the test does"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use egress_lab::process;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Container, Namespace, PodSpec, Service, Volume};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;

/// Where containers find their files; the manifests use no other folder for them.
const ETC: &str = "/etc/egress";

fn manifests() -> Vec<(PathBuf, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes");
    let mut documents = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        for document in text.split("\n---\n") {
            let value = serde_saphyr::from_str(document).unwrap();
            documents.push((path.clone(), value));
        }
    }
    assert!(documents.len() > 5, "{documents:?}");
    documents
}

fn documents<T: DeserializeOwned>(kind: &str) -> Vec<T> {
    manifests()
        .into_iter()
        .filter(|(_, value)| value["kind"] == kind)
        .map(|(path, value)| strict(&path, &value))
        .collect()
}

/// Reads a document as its type, of which it has no field that the type does not have.
fn strict<T: DeserializeOwned>(path: &Path, value: &Value) -> T {
    let mut unknown = Vec::new();
    let read = serde_ignored::deserialize(value, |field| unknown.push(field.to_string()));
    let path = path.display();
    assert!(unknown.is_empty(), "{path}: there is no {unknown:?}");
    read.unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn kubernetes_knows_every_field() {
    for (path, value) in manifests() {
        match value["kind"].as_str().unwrap() {
            "Namespace" => drop(strict::<Namespace>(&path, &value)),
            "ConfigMap" => drop(strict::<ConfigMap>(&path, &value)),
            "DaemonSet" => drop(strict::<DaemonSet>(&path, &value)),
            "Deployment" => drop(strict::<Deployment>(&path, &value)),
            "Service" => drop(strict::<Service>(&path, &value)),
            "PodDisruptionBudget" => drop(strict::<PodDisruptionBudget>(&path, &value)),
            "NetworkPolicy" => drop(strict::<NetworkPolicy>(&path, &value)),
            other => panic!("{}: {other} is not looked at", path.display()),
        }
    }
}

#[test]
fn a_field_that_is_none_is_found() {
    let wrong: Value = serde_json::json!({"kind": "Service", "spec": {"clusterIp": "None"}});
    let mut unknown = Vec::new();
    let _: Service =
        serde_ignored::deserialize(&wrong, |field| unknown.push(field.to_string())).unwrap();
    assert_eq!(unknown, ["spec.?.clusterIp"]);
}

#[test]
fn the_agent_starts_with_its_files() {
    let [agent] = &documents::<DaemonSet>("DaemonSet")[..] else {
        panic!("one DaemonSet");
    };
    let spec = agent.spec.clone().unwrap().template.spec.unwrap();
    passes_its_own_check(&spec);
}

#[test]
fn the_gateway_starts_with_its_files() {
    let [gateway] = &documents::<Deployment>("Deployment")[..] else {
        panic!("one Deployment");
    };
    let spec = gateway.spec.clone().unwrap().template.spec.unwrap();
    passes_its_own_check(&spec);
}

/// Lays the container's files out below another root, and has the program check them.
fn passes_its_own_check(spec: &PodSpec) {
    let root = tempfile::tempdir().unwrap();
    let [container] = &spec.containers[..] else {
        panic!("one container");
    };
    // What `cargo xtask image` builds unless it is told another name.
    let image = format!("egress:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(container.image.as_ref(), Some(&image));
    let pki = pki();
    for mount in container.volume_mounts.iter().flatten() {
        let volume = volume(spec, &mount.name);
        let files = files(volume, &pki);
        let Ok(below) = Path::new(&mount.mount_path).strip_prefix(ETC) else {
            assert!(volume.host_path.is_some(), "{}", mount.mount_path);
            continue;
        };
        let place = root.path().join(below);
        match &mount.sub_path {
            Some(file) => fs::write(&place, &files[file]).unwrap(),
            None => {
                fs::create_dir_all(&place).unwrap();
                for (name, content) in files {
                    fs::write(place.join(name), content).unwrap();
                }
            }
        }
    }
    let output = egress()
        .args(arguments(container, root.path()))
        .arg("--check")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{shown}");
    assert!(shown.contains("policy/policy.yaml"), "{shown}");
}

fn arguments(container: &Container, root: &Path) -> Vec<String> {
    let arguments = container.args.clone().unwrap();
    arguments
        .iter()
        .map(|argument| argument.replace(ETC, root.to_str().unwrap()))
        .collect()
}

fn volume<'a>(spec: &'a PodSpec, name: &str) -> &'a Volume {
    let volumes = spec.volumes.as_deref().unwrap();
    volumes.iter().find(|volume| volume.name == name).unwrap()
}

/// The files of a volume; a secret has those of `egress pki init` that deploy/README.md puts into
/// it, and a folder of the host none of its own.
fn files(volume: &Volume, pki: &TempDir) -> BTreeMap<String, String> {
    if let Some(source) = &volume.config_map {
        let maps = documents::<ConfigMap>("ConfigMap");
        let map = maps
            .into_iter()
            .find(|map| map.metadata.name.as_deref() == Some(&source.name));
        return map.unwrap().data.unwrap();
    }
    let Some(secret) = &volume.secret else {
        return BTreeMap::new();
    };
    let command = format!(
        "create secret generic {}",
        secret.secret_name.as_ref().unwrap()
    );
    let readme = include_str!("../../deploy/README.md");
    let line = readme.lines().find(|line| line.contains(&command));
    let line = line.unwrap_or_else(|| panic!("deploy/README.md does not say `{command}`"));
    line.split("--from-file=certs/")
        .skip(1)
        .map(|rest| rest.split_whitespace().next().unwrap().to_owned())
        .map(|name| {
            (
                name.clone(),
                fs::read_to_string(pki.path().join(name)).unwrap(),
            )
        })
        .collect()
}

fn pki() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let made = egress()
        .args(["pki", "init"])
        .arg(directory.path())
        .output();
    assert!(made.unwrap().status.success());
    directory
}

fn egress() -> Command {
    process::command(env!("CARGO_BIN_EXE_egress"))
}
