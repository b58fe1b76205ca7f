//! Any text as a policy document: no panic, and each mistake has its place.
#![no_main]

use egress_user::hello::ServerName;
use egress_user::policy::{Policy, Request};
use egress_user::workload::Workload;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Policy::parse(text, "policy.yaml") {
        Ok(loaded) => {
            let name = ServerName::parse(b"en.wikipedia.org").expect("an ordinary name");
            let _ = loaded.policy.judge(&Request {
                name: &name,
                port: 443,
                workload: &Workload::default(),
            });
        }
        Err(mistakes) => assert!(mistakes.to_string().contains("policy.yaml")),
    }
});
