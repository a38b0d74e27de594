//! Metrics in the Prometheus text format: per tenant and operation from the one operation table.
//!
//! Labels are bounded: `tenant` takes the names of the policy in force (4,096 at most), `operation`
//! and `status` those of the tables, `resource` those of the ledger. Of operations and statuses only
//! those that occurred are shown. A histogram for each tenant and each operation would be a dozen
//! lines times their product; there is one for each tenant and one for each operation.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use turnstile_core::Life;
use turnstile_policy::Resource;

use crate::daemon::Daemon;
use crate::runtime::{BUCKETS, OpTally, Standing, bucket_bound_ns};

/// Content type of the exposition.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metrics of a daemon whose tenants stand like this.
#[must_use]
pub fn exposition(daemon: &Daemon, standings: Vec<Standing>) -> String {
    let device = daemon.runtime().description();
    encode(Snapshot {
        standings,
        device: (device.kind, device.name.clone()),
        memory_bytes: device.memory_bytes,
        uptime_s: daemon.uptime().as_secs_f64(),
        audit_stopped: daemon.audit().stopped(),
    })
}

pub(super) fn encode(snapshot: Snapshot) -> String {
    let mut text = String::with_capacity(64 * 1024 + snapshot.standings.len() * 4096);
    let mut registry = Registry::with_prefix("turnstile");
    registry.register_collector(Box::new(snapshot));
    // PANIC-free: writing into a string does not fail; if it did, what there is is shown.
    if prometheus_text::encode(&mut text, &registry).is_err() {
        tracing::error!("the metrics could not be written");
    }
    text
}

#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) standings: Vec<Standing>,
    pub(super) device: (&'static str, String),
    pub(super) memory_bytes: u64,
    pub(super) uptime_s: f64,
    pub(super) audit_stopped: bool,
}

const SECOND_NS: f64 = 1e9;

impl Snapshot {
    /// A counter for each tenant.
    fn count(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        value: fn(&Standing) -> u64,
    ) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for s in &self.standings {
            counter(&mut metric, &[("tenant", &*s.policy.name)], value(s))?;
        }
        Ok(())
    }

    /// A gauge for each tenant.
    fn gauge(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        value: fn(&Standing) -> u64,
    ) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for s in &self.standings {
            metric.encode_family(&[("tenant", &*s.policy.name)])?.encode_gauge(&value(s))?;
        }
        Ok(())
    }

    /// A counter for each tenant and operation.
    fn by_operation(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        value: fn(&OpTally) -> u64,
    ) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for s in &self.standings {
            for (operation, op) in s.tally.operations() {
                let labels = [("tenant", &*s.policy.name), ("operation", operation)];
                counter(&mut metric, &labels, value(op))?;
            }
        }
        Ok(())
    }

    fn daemon(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut info = encoder.encode_descriptor(
            "build",
            "Version of the daemon and its device",
            None,
            MetricType::Gauge,
        )?;
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("backend", self.device.0),
            ("device", &*self.device.1),
        ];
        info.encode_family(&labels)?.encode_gauge(&1_u64)?;
        let mut plain = |name, help, value: f64| {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
        };
        plain("uptime_seconds", "Time since the daemon started", self.uptime_s)?;
        plain("device_memory_bytes", "Memory of the device", self.memory_bytes as f64)?;
        let stopped = f64::from(u8::from(self.audit_stopped));
        plain("audit_stopped", "1: the audit log takes no records, nobody is served", stopped)?;
        plain("tenants", "Tenants of the policy in force", self.standings.len() as f64)?;
        let attached = self.standings.iter().filter(|s| s.life.is_some()).count();
        plain("tenants_attached", "Tenants with a device", attached as f64)
    }

    fn tenants(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.gauge(encoder, "tenant_attached", "1: it has a device", |s| {
            u64::from(s.life.is_some())
        })?;
        self.gauge(encoder, "tenant_paused", "1: paused by the operator", |s| u64::from(s.paused))?;
        self.gauge(encoder, "tenant_revoked", "1: revoked by the operator", |s| {
            u64::from(s.barred || s.life == Some(Life::Revoked))
        })?;
        self.gauge(encoder, "queued_commands", "Commands fetched and not completed", |s| {
            s.waiting
        })?;
        self.gauge(encoder, "in_flight_commands", "Work commands at the backend", |s| {
            s.in_flight.into()
        })?;
        let help = "Register accesses refused, in this life of the device";
        self.gauge(encoder, "registers_refused", help, |s| s.registers_refused)?;
        self.count(encoder, "sessions_opened", "Sessions opened", |s| s.counters.sessions)?;
        self.count(encoder, "resets", "Resets by the driver", |s| s.counters.resets)?;
        self.count(encoder, "broken_rings", "Rings found broken", |s| s.counters.broken_rings)?;
        let mut metric =
            encoder.encode_descriptor("gpu_seconds", "GPU time used", None, MetricType::Counter)?;
        for s in &self.standings {
            let seconds = s.counters.busy_ns as f64 / SECOND_NS;
            let labels = [("tenant", &*s.policy.name)];
            metric
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, f64, f64>(&seconds, None)?;
        }
        Ok(())
    }

    fn resources(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut used = encoder.encode_descriptor(
            "resource_used",
            "Amount held of a resource of the policy",
            None,
            MetricType::Gauge,
        )?;
        for s in &self.standings {
            for (resource, amount) in Resource::ALL.iter().zip(s.used).filter(|(_, n)| *n > 0) {
                let labels = [("tenant", &*s.policy.name), ("resource", resource.name())];
                used.encode_family(&labels)?.encode_gauge(&amount)?;
            }
        }
        let mut limit = encoder.encode_descriptor(
            "buffer_bytes_limit",
            "Bytes of buffers the policy allows",
            None,
            MetricType::Gauge,
        )?;
        for s in &self.standings {
            let most = Resource::BufferBytes.limit(&s.policy.grants);
            limit.encode_family(&[("tenant", &*s.policy.name)])?.encode_gauge(&most)?;
        }
        Ok(())
    }

    fn latencies(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(
            "tenant_latency_seconds",
            "Fetch to completion, all operations of a tenant",
            None,
            MetricType::Histogram,
        )?;
        let mut operations: BTreeMap<&str, OpTally> = BTreeMap::new();
        for s in &self.standings {
            let mut total = OpTally::default();
            for (operation, op) in s.tally.operations() {
                total += op;
                *operations.entry(operation).or_default() += op;
            }
            if total.completed > 0 {
                histogram(&mut metric, &[("tenant", &*s.policy.name)], &total)?;
            }
        }
        let mut metric = encoder.encode_descriptor(
            "operation_latency_seconds",
            "Fetch to completion, all tenants of an operation",
            None,
            MetricType::Histogram,
        )?;
        for (operation, total) in &operations {
            histogram(&mut metric, &[("operation", operation)], total)?;
        }
        Ok(())
    }

    fn outcomes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(
            "outcomes",
            "Commands completed, by how they ended",
            None,
            MetricType::Counter,
        )?;
        for s in &self.standings {
            for (status, n) in s.tally.outcomes() {
                let labels = [("tenant", &*s.policy.name), ("status", status.name())];
                counter(&mut metric, &labels, n)?;
            }
        }
        Ok(())
    }
}

fn counter<const N: usize>(
    metric: &mut MetricEncoder<'_>,
    labels: &[(&str, &str); N],
    value: u64,
) -> fmt::Result {
    metric.encode_family(labels)?.encode_counter::<NoLabelSet, u64, f64>(&value, None)
}

fn histogram(
    metric: &mut MetricEncoder<'_>,
    labels: &[(&str, &str); 1],
    op: &OpTally,
) -> fmt::Result {
    let buckets: [(f64, u64); BUCKETS] = std::array::from_fn(|at| {
        let bound = bucket_bound_ns(at).map_or(f64::INFINITY, |ns| ns as f64 / SECOND_NS);
        (bound, op.buckets[at])
    });
    let count = op.buckets.iter().sum();
    let sum = op.sum_ns as f64 / SECOND_NS;
    metric.encode_family(labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        self.daemon(encoder)?;
        self.tenants(encoder)?;
        self.resources(encoder)?;
        let completed = "Commands completed, however they ended";
        self.by_operation(encoder, "commands", completed, |op| op.completed)?;
        let refused = "Commands refused before they ran";
        self.by_operation(encoder, "commands_refused", refused, |op| op.refused)?;
        let failed = "Commands that failed while they ran";
        self.by_operation(encoder, "commands_failed", failed, |op| op.failed)?;
        self.by_operation(encoder, "bytes", "Bytes moved", |op| op.bytes)?;
        self.outcomes(encoder)?;
        self.latencies(encoder)
    }
}
