//! What is counted, as Prometheus reads it.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use teemate_control::function::{Failure, FailureKind, Outcome};
use teemate_control::node::Sharing;

use crate::containers::Kind;
use crate::error::{Error, Result};
use crate::locks::Lock;
use crate::node::Node;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallLabels {
    sharing: String,
    result: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PhaseLabels {
    sharing: String,
    phase: String,
}

/// From 10 us to about 80 s.
fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(10e-6, 2.0, 24))
}

/// All metrics.
pub struct Metrics {
    registry: Mutex<Registry>,
    calls: Family<CallLabels, Counter>,
    phases: Family<PhaseLabels, Histogram, fn() -> Histogram>,
    rebuilds: Counter,
    elsewhere: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    /// With everything at zero.
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("teemate");
        let calls = Family::default();
        registry.register("calls", "Calls answered, by mode and result", calls.clone());
        let phases = Family::new_with_constructor(histogram as fn() -> Histogram);
        let help = "Time until a phase of a call was reached, since the phase before it";
        registry.register_with_unit("phase", help, Unit::Seconds, phases.clone());
        let rebuilds = Counter::default();
        registry.register("rebuilds", "Times that the shared enclave was built anew", rebuilds.clone());
        let elsewhere = Counter::default();
        registry.register("calls_elsewhere", "Calls that were sent to a worker enclave", elsewhere.clone());
        Metrics { registry: Mutex::new(registry), calls, phases, rebuilds, elsewhere }
    }

    /// Notes a call.
    pub fn call(&self, sharing: Sharing, result: &std::result::Result<Outcome, Failure>) {
        let sharing = crate::names::sharing(sharing).to_owned();
        let name = match result {
            Ok(Outcome { result: Ok(_), .. }) => "success",
            Ok(Outcome { result: Err(failure), .. }) | Err(failure) => kind_name(failure.kind),
        };
        self.calls.get_or_create(&CallLabels { sharing: sharing.clone(), result: name.to_owned() }).inc();
        let Ok(outcome) = result else { return };
        for pair in outcome.marks.windows(2) {
            let phase = crate::names::phase(pair[1].phase).to_owned();
            let seconds = pair[1].at_ns.saturating_sub(pair[0].at_ns) as f64 * 1e-9;
            self.phases.get_or_create(&PhaseLabels { sharing: sharing.clone(), phase }).observe(seconds);
        }
    }

    /// Notes that a call was sent to a worker enclave.
    pub fn sent_elsewhere(&self) {
        self.elsewhere.inc();
    }

    /// Notes that the shared enclave was built anew.
    pub fn rebuilt(&self) {
        self.rebuilds.inc();
    }

    /// Prometheus text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string fails only when a collector does.
        if encode(&mut text, &self.registry.locked()).is_err() {
            tracing::error!("the metrics can't be written");
        }
        text
    }
}

fn kind_name(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Application => "application",
        FailureKind::Limit => "limit",
        FailureKind::Denied => "denied",
        FailureKind::Integrity => "integrity",
        FailureKind::ContainerLost => "container_lost",
        FailureKind::Invalid => "invalid",
        FailureKind::Busy => "busy",
        FailureKind::Internal => "internal",
    }
}

/// Adds what is read at each look: counters of enclaves, TCSs, pages, containers.
pub fn watch(node: &Arc<Node>) {
    let live = Live { node: Arc::downgrade(node) };
    node.shop().metrics.registry.locked().register_collector(Box::new(live));
}

struct Live {
    node: Weak<Node>,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Live")
    }
}

impl Collector for Live {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(node) = self.node.upgrade() else { return Ok(()) };
        let (counters, ocalls) = node.counters();
        let instructions: [(&str, u64); 6] = [
            ("EENTER", counters.eenter),
            ("EEXIT", counters.eexit),
            ("AEX", counters.aex),
            ("ERESUME", counters.eresume),
            ("EAUG", counters.eaug),
            ("EREMOVE", counters.eremove),
        ];
        let help = "SGX events, over all enclaves since the node's start";
        family(&mut encoder, "sgx_events", help, MetricType::Counter, "event", &instructions)?;
        let kills = [
            ("inside", counters.killed_inside),
            ("entering", counters.killed_entering),
            ("in_leaf", counters.killed_in_leaf),
            ("in_exit", counters.killed_in_exit),
        ];
        let help = "Kills that hit a thread of an enclave, whose state was saved";
        family(&mut encoder, "kills_saved", help, MetricType::Counter, "state", &kills)?;
        let calls: Vec<_> =
            ocalls.iter().enumerate().map(|(kind, count)| (crate::names::ocall(kind), *count)).filter(|(_, n)| *n > 0).collect();
        family(&mut encoder, "ocalls", "OCALLs, by kind", MetricType::Counter, "call", &calls)?;
        let containers =
            [Kind::Service, Kind::Reaper, Kind::Function, Kind::Ready].map(|kind| (kind.name(), node.shop().containers.count(kind) as u64));
        family(&mut encoder, "containers", "Containers alive, by role", MetricType::Gauge, "role", &containers)?;
        plain(&mut encoder, "containers_reaped", "Containers reaped", MetricType::Counter, node.shop().containers.reaped())?;
        plain(&mut encoder, "functions", "Functions deployed", MetricType::Gauge, node.shop().store.all().len() as u64)?;
        plain(&mut encoder, "calls_running", "Calls under way", MetricType::Gauge, node.status().running)?;
        let ps: Vec<(String, u64)> = node.enclave_rows().iter().map(|row| (row.id.to_string(), row.epc_pages)).collect();
        let rows: Vec<(&str, u64)> = ps.iter().map(|(id, pages)| (id.as_str(), *pages)).collect();
        family(&mut encoder, "epc_pages", "EPC pages in use, by enclave", MetricType::Gauge, "enclave", &rows)?;
        let help = "EPC pages that the enclave charges to a container, of its own word";
        let mut charged = encoder.encode_descriptor("container_epc_pages", help, None, MetricType::Gauge)?;
        for (container, kind, pages) in node.charged_pages() {
            let labels = [("container", container.to_string()), ("role", kind.name().to_owned())];
            ConstGauge::new(i64::try_from(pages).unwrap_or(i64::MAX)).encode(charged.encode_family(&labels)?)?;
        }
        let all = node.all_shared();
        let mut tcs = encoder.encode_descriptor("tcs", "TCSs of shared enclaves, by state", None, MetricType::Gauge)?;
        for shared in &all {
            let (_, count) = shared.tcs();
            for (state, number) in [("free", count.free), ("held", count.held), ("orphaned", count.orphaned), ("stuck", count.stuck)] {
                let labels = [("enclave", shared.id.to_string()), ("role", shared.role().to_owned()), ("state", state.to_owned())];
                ConstGauge::new(i64::from(number)).encode(tcs.encode_family(&labels)?)?;
            }
        }
        let workers = all.iter().filter(|shared| shared.post.is_worker()).count() as u64;
        plain(&mut encoder, "workers", "Worker enclaves", MetricType::Gauge, workers)?;
        if let Some(shared) = node.current() {
            let ([idle, call, inside], takeovers) = node.threads();
            let found = [("idle", idle), ("in_call", call), ("inside", inside)];
            family(&mut encoder, "threads_adopted", "Orphaned threads brought to their end", MetricType::Counter, "found", &found)?;
            let help = "Processes that took the service over from a killed one";
            plain(&mut encoder, "service_takeovers", help, MetricType::Counter, takeovers)?;
            let queued = all.iter().map(|shared| shared.queued() as u64).sum();
            plain(&mut encoder, "containers_queued", "Containers that wait for a TCS", MetricType::Gauge, queued)?;
            let taken = shared.containers_taken();
            plain(&mut encoder, "containers_taken", "Calls that got a container made ahead of them", MetricType::Counter, taken)?;
            plain(
                &mut encoder,
                "network_namespaces_ready",
                "Network namespaces in the pool",
                MetricType::Gauge,
                shared.nets_ready() as u64,
            )?;
        }
        Ok(())
    }
}

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    label: &str,
    values: &[(&str, u64)],
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (value, count) in values {
        let labels = [(label, *value)];
        let one = metric.encode_family(&labels)?;
        match kind {
            MetricType::Counter => ConstCounter::new(*count).encode(one)?,
            _ => ConstGauge::new(i64::try_from(*count).unwrap_or(i64::MAX)).encode(one)?,
        }
    }
    Ok(())
}

fn plain(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, kind: MetricType, count: u64) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, kind)?;
    match kind {
        MetricType::Counter => ConstCounter::new(count).encode(metric),
        _ => ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX)).encode(metric),
    }
}

/// Serves `GET /metrics` at an address, one client at a time, each of which has two seconds to ask.
pub fn serve(address: SocketAddr, node: &Arc<Node>) -> Result<SocketAddr> {
    let listener = TcpListener::bind(address).map_err(Error::system(format!("serve metrics at {address}")))?;
    let bound = listener.local_addr().map_err(Error::system("read the address of the metrics"))?;
    let node = Arc::downgrade(node);
    let work = move || {
        for stream in listener.incoming() {
            let Some(node) = node.upgrade() else { return };
            if let Ok(stream) = stream {
                let _ = answer(stream, &node);
            }
        }
    };
    let spawned = std::thread::Builder::new().name("metrics".to_owned()).spawn(work);
    spawned.map(|_| bound).map_err(Error::system("start a thread of the node"))
}

fn answer(mut stream: TcpStream, node: &Node) -> std::io::Result<()> {
    const LIMIT: Duration = Duration::from_secs(2);
    let deadline = Instant::now() + LIMIT;
    stream.set_write_timeout(Some(LIMIT))?;
    let mut head = Vec::new();
    let mut buffer = [0u8; 1024];
    while head.len() < 8192 && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        // Who sends a byte now and then holds up all others no longer than who sends none.
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => head.extend_from_slice(buffer.get(..length).unwrap_or_default()),
        }
    }
    let (status, kind, body) = if head.starts_with(b"GET /metrics ") {
        ("200 OK", "application/openmetrics-text; version=1.0.0; charset=utf-8", node.metrics())
    } else {
        ("404 Not Found", "text/plain", "the metrics are at /metrics\n".to_owned())
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}
