//! What is asked at every scrape.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct GatewayLabels {
    state: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct KernelLabels {
    judgement: &'static str,
}

pub(super) struct KernelCounters(
    pub(super) Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>,
);

impl fmt::Debug for KernelCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KernelCounters")
    }
}

impl Collector for KernelCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Sockets that the kernel programs judged, by verdict and reason";
        let mut family = encoder.encode_descriptor("kernel", help, None, MetricType::Counter)?;
        for (judgement, count) in (self.0)() {
            let labels = KernelLabels { judgement };
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

pub(super) struct Gateways(pub(super) Box<dyn Fn() -> Vec<(&'static str, usize)> + Send + Sync>);

impl fmt::Debug for Gateways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gateways")
    }
}

impl Collector for Gateways {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Gateways that the agent knows, by whether it uses them";
        let mut family = encoder.encode_descriptor("gateways", help, None, MetricType::Gauge)?;
        for (state, count) in (self.0)() {
            let labels = GatewayLabels { state };
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
