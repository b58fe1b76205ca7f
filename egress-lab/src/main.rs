//! A lab to look around in: `cargo run --package egress-lab`, as root, until Ctrl-C.

use std::io;
use std::net::IpAddr;

use egress_lab::{Authority, Cgroup, Host, Lab, Names, Origins, Site, sweep};

const SITES: [Site; 3] = [
    Site::new("en.wikipedia.org", 10),
    Site::new("de.wikipedia.org", 20),
    Site::new("cloud.ibm.com", 30),
];

fn main() -> anyhow::Result<()> {
    sweep::on_signals()?;
    let lab = Lab::new()?;
    let authority = Authority::new(lab.directory())?;
    let addresses: Vec<(&str, [IpAddr; 2])> = SITES
        .iter()
        .map(|site| (site.name, site.addresses()))
        .collect();
    let _names = Names::start(&lab, &addresses)?;
    let _origins = Origins::start(&lab, &authority, &SITES)?;
    let cgroup = Cgroup::new()?;

    let enter = |host: &Host| format!("nsenter --net={}", host.namespace.path().display());
    println!("app        {}", enter(&lab.app));
    println!("node       {}", enter(&lab.node));
    println!("gateway    {}", enter(&lab.gateway));
    println!("internet   nsenter --net={}", lab.internet.path().display());
    println!("cgroup     {}", cgroup.path().display());
    println!("directory  {}", lab.directory().display());
    println!("authority  {}", authority.certificate().display());
    println!("names      {}", Names::ADDRESS);
    for site in SITES {
        println!("origin     {} {} {}", site.name, site.v4, site.v6);
    }
    println!("press Ctrl-C, or close standard input, to remove all of it");
    // Whatever is typed: only the end matters.
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    Ok(())
}
