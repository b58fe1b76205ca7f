//! Envoy at either end. TLS and the PROXY header are one hop apart, so that the header is inside.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use egress_lab::{Host, Names, Process};

use super::{Header, INNER, gateway};
use crate::world::World;

/// To the origins, with what Envoy knows of the client.
const LOGGED: &str =
    "cluster: origins, access_log: [{name: envoy.access_loggers.stdout, typed_config: {
          \"@type\": TYPE/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog,
          log_format: {text_format_source: {inline_string: \"from %DOWNSTREAM_REMOTE_ADDRESS% \
          for %DOWNSTREAM_LOCAL_ADDRESS% name %REQUESTED_SERVER_NAME%\\n\"}}}}]";

/// In the place of our gateway.
pub(super) fn server(
    world: &World,
    home: &Path,
    listen: SocketAddr,
    proxy_header: bool,
) -> Process {
    let header = match proxy_header {
        true => {
            "
    - name: envoy.filters.listener.proxy_protocol
      typed_config: {\"@type\": TYPE/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol}"
        }
        false => "",
    };
    let cache = format!(
        "name: origins
          dns_lookup_family: V4_ONLY
          typed_dns_resolver_config:
            name: envoy.network.dns_resolver.cares
            typed_config:
              \"@type\": TYPE/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig
              resolvers: [{{{}}}]",
        address(Names::ADDRESS)
    );
    let tls = tls("Downstream", Some((&world.pki(), "gateway")), world);
    let configuration = format!(
        "
static_resources:
  listeners:
  - name: agents
    address: {{{listen}}}
    filter_chains:
    - transport_socket: {tls}
      filters: [{to_inner}]
  - name: inner
    address: {{{inner}}}
    listener_filters:{header}
    - name: envoy.filters.listener.tls_inspector
      typed_config: {{\"@type\": TYPE/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}
    filter_chains:
    - filter_chain_match: {{server_names: [\"*.wikipedia.org\"]}}
      filters:
      - name: envoy.filters.network.sni_dynamic_forward_proxy
        typed_config:
          \"@type\": TYPE/envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig
          port_value: 443
          dns_cache_config:
            {inner_cache}
      - {to_origins}
  clusters:
  - {inner_cluster}
  - name: origins
    lb_policy: CLUSTER_PROVIDED
    cluster_type:
      name: envoy.clusters.dynamic_forward_proxy
      typed_config:
        \"@type\": TYPE/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig
        dns_cache_config:
          {cache}
",
        listen = address(listen),
        inner = address(INNER.parse().unwrap()),
        to_inner = proxy_to("inner"),
        to_origins = proxy_to("origins").replace("cluster: origins", LOGGED),
        inner_cluster = cluster("inner", INNER.parse().unwrap(), ""),
        inner_cache = cache.replace("\n", "\n  "),
    );
    start(&world.lab.gateway, home, &configuration)
}

/// In the place of our agent.
pub(super) fn client(
    world: &World,
    home: &Path,
    header: Header,
    identity: Option<&Path>,
) -> Process {
    let tls = tls("Upstream", identity.map(|pki| (pki, "agent")), world);
    let with_header = |socket: &str| {
        format!(
            "{{name: envoy.transport_sockets.upstream_proxy_protocol, typed_config: {{
            \"@type\": TYPE/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport,
            config: {{version: V2}}, transport_socket: {socket}}}}}"
        )
    };
    let plain = "{name: envoy.transport_sockets.raw_buffer, typed_config: {
            \"@type\": TYPE/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}";
    let (first, to_gateway) = match header {
        Header::None => ("gateway", tls),
        Header::Inside => ("inner", tls),
        Header::Outside => ("gateway", with_header(&tls)),
    };
    let inner: SocketAddr = INNER.parse().unwrap();
    let configuration = format!(
        "
static_resources:
  listeners:
  - name: application
    address: {{{application}}}
    filter_chains: [{{filters: [{to_first}]}}]
  - name: inner
    address: {{{inner}}}
    filter_chains: [{{filters: [{to_gateway}]}}]
  clusters:
  - {inner_cluster}
  - {gateway_cluster}
",
        application = address(SocketAddr::from(([127, 0, 0, 1], 443))),
        to_first = proxy_to(first),
        inner = address(inner),
        to_gateway = proxy_to("gateway"),
        inner_cluster = cluster("inner", inner, &with_header(plain)),
        gateway_cluster = cluster("gateway", gateway(world), &to_gateway),
    );
    start(&world.lab.node, home, &configuration)
}

fn start(host: &Host, home: &Path, configuration: &str) -> Process {
    let path = home.join("envoy.yaml");
    let types = "type.googleapis.com";
    fs::write(&path, configuration.replace("TYPE/", &format!("{types}/"))).unwrap();
    let mut command = host.namespace.command("envoy").unwrap();
    command
        .arg("--config-path")
        .arg(path)
        .args(["--concurrency", "1", "--use-dynamic-base-id"])
        .args(["--file-flush-interval-msec", "100"]);
    Process::start(command, "envoy", home).unwrap()
}

/// The inside of an address.
fn address(of: SocketAddr) -> String {
    let (ip, port) = (of.ip(), of.port());
    format!("socket_address: {{address: \"{ip}\", port_value: {port}}}")
}

/// A filter that carries everything to a cluster.
fn proxy_to(cluster: &str) -> String {
    format!(
        "{{name: envoy.filters.network.tcp_proxy, typed_config: {{
          \"@type\": TYPE/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy,
          stat_prefix: {cluster}, cluster: {cluster}}}}}"
    )
}

fn cluster(name: &str, to: SocketAddr, transport_socket: &str) -> String {
    let transport_socket = match transport_socket {
        "" => String::new(),
        socket => format!(", transport_socket: {socket}"),
    };
    format!(
        "{{name: {name}, type: STATIC, load_assignment: {{cluster_name: {name}, endpoints: [
      {{lb_endpoints: [{{endpoint: {{address: {{{}}}}}}}]}}]}}{transport_socket}}}",
        address(to)
    )
}

/// TLS with the certificate of a hop, or with none, that trusts our own authority.
fn tls(direction: &str, identity: Option<(&Path, &str)>, world: &World) -> String {
    let file = |path: &Path| format!("{{filename: \"{}\"}}", path.display());
    let own = identity.map(|(pki, hop)| {
        let certificate = file(&pki.join(format!("{hop}.pem")));
        let key = file(&pki.join(format!("{hop}-key.pem")));
        format!("tls_certificates: [{{certificate_chain: {certificate}, private_key: {key}}}],")
    });
    let require = match direction {
        "Downstream" => "require_client_certificate: true,",
        _ => "",
    };
    format!(
        "{{name: envoy.transport_sockets.tls, typed_config: {{
        \"@type\": TYPE/envoy.extensions.transport_sockets.tls.v3.{direction}TlsContext, {require}
        common_tls_context: {{{own}
          tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}},
          validation_context: {{trusted_ca: {ca}}}}}}}}}",
        own = own.unwrap_or_default(),
        ca = file(&world.pki().join("ca.pem")),
    )
}
