//! INFO: the server in numbers.

use std::fmt::Write;

use super::{Command, Context, Done, Kind, command, flag};
use crate::eviction::used_memory;
use crate::replication::Stage;
use crate::replication::link::State;
use crate::shared::Shared;
use crate::store::Store;

/// The version of Redis whose commands these are: clients decide by it what they may ask for.
pub const VERSION: &str = "7.0.15";

pub const COMMANDS: &[Command] = &[command("info", -1, Kind::Server, (0, 0, 0), info).with(flag::DANGEROUS)];

const DEFAULT: &[&str] =
    &["server", "clients", "memory", "persistence", "stats", "replication", "cpu", "modules", "errorstats", "cluster", "keyspace"];
const ALL: &[&str] = &[
    "server",
    "clients",
    "memory",
    "persistence",
    "stats",
    "replication",
    "cpu",
    "commandstats",
    "latencystats",
    "modules",
    "errorstats",
    "cluster",
    "keyspace",
];

fn info(context: &mut Context<'_>) -> Done {
    let mut wanted: Vec<String> = context.args[1..].iter().map(|arg| String::from_utf8_lossy(arg).to_ascii_lowercase()).collect();
    if wanted.is_empty() || wanted.iter().any(|name| name == "default") {
        wanted.extend(DEFAULT.iter().map(|name| (*name).to_owned()));
    }
    if wanted.iter().any(|name| name == "all" || name == "everything") {
        wanted.extend(ALL.iter().map(|name| (*name).to_owned()));
    }
    let mut text = String::new();
    for name in ALL.iter().filter(|name| wanted.iter().any(|wanted| wanted == *name)) {
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        // Writing into a string does not fail.
        let _ = section(context, name, &mut text);
    }
    context.reply.verbatim(&text);
    Ok(())
}

fn human(bytes: usize) -> String {
    let bytes = bytes as f64;
    let units = [(1u64 << 30, 'G'), (1 << 20, 'M'), (1 << 10, 'K')];
    match units.iter().find(|(unit, _)| bytes >= *unit as f64) {
        Some((unit, letter)) => format!("{:.2}{letter}", bytes / *unit as f64),
        None => format!("{bytes}B"),
    }
}

fn section(context: &mut Context<'_>, name: &str, text: &mut String) -> std::fmt::Result {
    let (store, shared) = (&mut *context.store, &mut *context.shared);
    let counters = &shared.counters;
    macro_rules! line {
        ($($arg:tt)*) => {{ write!(text, $($arg)*)?; text.push_str("\r\n"); }};
    }
    match name {
        "server" => {
            let up = (store.now - shared.started) / 1000;
            line!("# Server");
            line!("redis_version:{VERSION}");
            line!("redis_git_sha1:00000000");
            line!("redis_git_dirty:0");
            line!("redis_build_id:teemate-{}", env!("CARGO_PKG_VERSION"));
            line!("redis_mode:standalone");
            line!("os:Linux");
            line!("arch_bits:64");
            line!("multiplexing_api:epoll");
            line!("process_id:{}", std::process::id());
            line!("run_id:{}", shared.run_id);
            line!("database_id:{}", shared.storage.database);
            line!("tcp_port:{}", shared.port);
            line!("server_time_usec:{}", store.now * 1000);
            line!("uptime_in_seconds:{up}");
            line!("uptime_in_days:{}", up / 86_400);
            line!("hz:10");
            line!("configured_hz:{}", shared.config.get("hz"));
            line!("lru_clock:{}", (store.now / 1000) & 0xff_ffff);
            line!("executable:teemate-database");
            line!("config_file:");
        }
        "clients" => {
            line!("# Clients");
            line!("connected_clients:{}", shared.slots.len());
            line!("cluster_connections:0");
            line!("maxclients:{}", shared.config.get("maxclients"));
            line!("client_recent_max_input_buffer:0");
            line!("client_recent_max_output_buffer:0");
            line!("blocked_clients:{}", shared.blocked);
            line!("tracking_clients:{}", shared.trackers.len());
            line!("clients_in_timeout_table:{}", shared.deadlines.len());
        }
        "memory" => {
            let used = used_memory();
            let peak = counters.peak.max(used);
            let limit = shared.config.hot.max_memory;
            line!("# Memory");
            line!("used_memory:{used}");
            line!("used_memory_human:{}", human(used));
            line!("used_memory_rss:{used}");
            line!("used_memory_rss_human:{}", human(used));
            line!("used_memory_peak:{peak}");
            line!("used_memory_peak_human:{}", human(peak));
            line!("used_memory_overhead:0");
            line!("used_memory_startup:0");
            line!("used_memory_dataset:{used}");
            let [lua, bytes, scripts, libraries, functions] = shared.script_figures();
            line!("used_memory_lua:{lua}");
            line!("used_memory_vm_eval:{lua}");
            line!("used_memory_scripts_eval:{bytes}");
            line!("number_of_cached_scripts:{scripts}");
            line!("number_of_functions:{functions}");
            line!("number_of_libraries:{libraries}");
            line!("maxmemory:{limit}");
            line!("maxmemory_human:{}", human(limit));
            line!("maxmemory_policy:{}", shared.config.get("maxmemory-policy"));
            line!("mem_fragmentation_ratio:1.00");
            line!("mem_not_counted_for_evict:0");
            line!("mem_clients_slaves:0");
            line!("mem_clients_normal:0");
            line!("mem_aof_buffer:0");
            line!("mem_allocator:libc");
            line!("active_defrag_running:0");
            line!("lazyfree_pending_objects:0");
            line!("lazyfreed_objects:0");
        }
        "persistence" => persistence(store, shared, text)?,
        "stats" => {
            line!("# Stats");
            line!("total_connections_received:{}", counters.connections);
            line!("total_commands_processed:{}", counters.commands);
            line!("instantaneous_ops_per_sec:0");
            line!("total_net_input_bytes:{}", counters.input);
            line!("total_net_output_bytes:{}", counters.output);
            line!("instantaneous_input_kbps:0.00");
            line!("instantaneous_output_kbps:0.00");
            line!("rejected_connections:{}", counters.rejected);
            line!("sync_full:{}", shared.replication.counters.full);
            line!("sync_partial_ok:{}", shared.replication.counters.partial);
            line!("sync_partial_err:{}", shared.replication.counters.refused);
            // MIGRATE is not there, so nothing is kept for it.
            line!("migrate_cached_sockets:0");
            line!("expired_keys:{}", store.expired);
            line!("expired_stale_perc:0.00");
            line!("evicted_keys:{}", counters.evicted);
            line!("evicted_clients:0");
            line!("keyspace_hits:{}", counters.hits);
            line!("keyspace_misses:{}", counters.misses);
            line!("pubsub_channels:{}", shared.channels(crate::shared::Listening::Channel).len());
            line!("pubsub_patterns:{}", shared.channels(crate::shared::Listening::Pattern).len());
            line!("latest_fork_usec:{}", shared.saving.file.start_us);
            line!("total_forks:0");
            line!("tracking_total_keys:{}", shared.tracked.len());
            line!("tracking_total_items:{}", shared.tracked.values().map(std::collections::BTreeSet::len).sum::<usize>());
            let prefixes =
                shared.sessions.iter().flatten().filter_map(|session| session.tracking.as_ref()).map(|tracking| tracking.prefixes.len());
            line!("tracking_total_prefixes:{}", prefixes.sum::<usize>());
            line!("unexpected_error_replies:0");
            line!("total_error_replies:{}", counters.errors);
            line!("client_output_buffer_limit_disconnections:{}", counters.output_limit);
        }
        "replication" => replication(store, shared, text)?,
        "cpu" => {
            let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
            line!("# CPU");
            line!("used_cpu_sys:0.000000");
            line!("used_cpu_user:{}.{:06}", usage.tv_sec, usage.tv_nsec / 1000);
        }
        "commandstats" => {
            line!("# Commandstats");
            for (name, calls) in &shared.calls {
                let each = if calls.calls == 0 { 0.0 } else { calls.us as f64 / calls.calls as f64 };
                line!(
                    "cmdstat_{name}:calls={},usec={},usec_per_call={each:.2},rejected_calls={},failed_calls={}",
                    calls.calls,
                    calls.us,
                    calls.rejected,
                    calls.failed
                );
            }
        }
        "latencystats" => line!("# Latencystats"),
        "modules" => line!("# Modules"),
        "errorstats" => {
            line!("# Errorstats");
            for (word, count) in &counters.by_error {
                line!("errorstat_{word}:count={count}");
            }
        }
        "cluster" => {
            line!("# Cluster");
            line!("cluster_enabled:0");
        }
        _ => {
            line!("# Keyspace");
            for db in 0..store.databases() {
                if !store.is_empty(db) {
                    line!("db{db}:keys={},expires={},avg_ttl=0", store.len(db), store.expiring(db));
                }
            }
        }
    }
    Ok(())
}

fn replication(store: &Store, shared: &mut Shared, text: &mut String) -> std::fmt::Result {
    text.push_str("# Replication\r\n");
    let replication = &mut shared.replication;
    let mut line = |name: &str, value: &dyn std::fmt::Display| write!(text, "{name}:{value}\r\n");
    match &replication.link {
        None => line("role", &"master")?,
        Some(link) => {
            let is_up = link.state == State::Up;
            line("role", &"slave")?;
            line("master_host", &link.host)?;
            line("master_port", &link.port)?;
            line("master_link_status", &if is_up { "up" } else { "down" })?;
            line("master_last_io_seconds_ago", &if is_up { (store.now - link.heard) / 1000 } else { -1 })?;
            line("master_sync_in_progress", &u8::from(link.state == State::Loading))?;
            line("slave_read_repl_offset", &replication.stream.end())?;
            line("slave_repl_offset", &replication.stream.end())?;
            if !is_up {
                line("master_link_down_since_seconds", &((store.now - link.down_since) / 1000))?;
            }
            if let Some(why) = &link.why {
                line("master_link_error", &one_line(why))?;
            }
            line("slave_priority", &shared.config.get("replica-priority"))?;
            line("slave_read_only", &u8::from(shared.config.is_on("replica-read-only")))?;
            line("replica_announced", &1)?;
        }
    }
    line("connected_slaves", &replication.following().count())?;
    for (number, (_, replica)) in replication.following().enumerate() {
        let state = match replica.stage {
            Stage::Waits | Stage::Saves => "wait_bgsave",
            Stage::Loads(..) => "send_bulk",
            Stage::Follows => "online",
        };
        let lag = (store.now - replica.heard) / 1000;
        let shown = format!("ip={},port={},state={state},offset={},lag={lag}", replica.ip, replica.port, replica.acknowledged);
        line(&format!("slave{number}"), &shown)?;
    }
    line("master_failover_state", &"no-failover")?;
    line("master_replid", &replication.stream.id().to_owned())?;
    let (before, end) = replication.before.clone().map_or(("0".repeat(40), -1), |(before, end)| (before, end as i64 + 1));
    line("master_replid2", &before)?;
    line("master_repl_offset", &replication.stream.end())?;
    line("second_repl_offset", &end)?;
    line("repl_backlog_active", &u8::from(replication.kept))?;
    line("repl_backlog_size", &shared.config.get("repl-backlog-size"))?;
    line("repl_backlog_first_byte_offset", &if replication.kept { replication.stream.start() + 1 } else { 0 })?;
    line("repl_backlog_histlen", &replication.stream.held())
}

fn persistence(store: &Store, shared: &Shared, text: &mut String) -> std::fmt::Result {
    let (saving, log) = (&shared.saving, &shared.log);
    let (status, seconds) = (|failed: bool| if failed { "err" } else { "ok" }, |ms: Option<u64>| ms.map_or(-1, |ms| ms as i64 / 1000));
    let since = |ms: Option<u128>| ms.map_or(-1, |ms| ms as i64 / 1000);
    text.push_str("# Persistence\r\n");
    let mut line = |name: &str, value: &dyn std::fmt::Display| write!(text, "{name}:{value}\r\n");
    line("loading", &0)?;
    line("async_loading", &0)?;
    line("current_cow_peak", &0)?;
    line("current_cow_size", &store.handed_over())?;
    line("rdb_changes_since_last_save", &store.changes.saturating_sub(saving.changes))?;
    line("rdb_bgsave_in_progress", &u8::from(saving.file_under_way().is_some()))?;
    line("rdb_last_save_time", &saving.last)?;
    line("rdb_last_bgsave_status", &status(saving.failed.is_some()))?;
    if let Some((why, _)) = &saving.failed {
        line("rdb_last_bgsave_error", &one_line(why))?;
    }
    line("rdb_last_bgsave_time_sec", &seconds(saving.file.took_ms))?;
    line("rdb_current_bgsave_time_sec", &since(saving.file_under_way()))?;
    line("rdb_last_cow_size", &saving.file.handed)?;
    line("rdb_last_start_us", &saving.file.start_us)?;
    line("rdb_last_writer_start_us", &saving.writer_us.load(std::sync::atomic::Ordering::Relaxed))?;
    line("rdb_saves", &saving.saves)?;
    let figures = log.figures();
    line("aof_enabled", &u8::from(log.is_wanted()))?;
    line("aof_rewrite_in_progress", &u8::from(log.is_rewriting()))?;
    line("aof_rewrite_scheduled", &u8::from(log.scheduled))?;
    line("aof_last_rewrite_time_sec", &seconds(saving.base.took_ms))?;
    line("aof_current_rewrite_time_sec", &since(saving.base_under_way()))?;
    line("aof_last_bgrewrite_status", &status(log.rewrite_failed().is_some()))?;
    if let Some(why) = log.rewrite_failed() {
        line("aof_last_bgrewrite_error", &one_line(why))?;
    }
    line("aof_rewrites", &figures.rewrites)?;
    line("aof_rewrites_consecutive_failures", &figures.failures)?;
    line("aof_last_write_status", &status(log.failed().is_some()))?;
    if let Some(why) = log.failed() {
        line("aof_last_write_error", &one_line(why))?;
    }
    line("aof_last_cow_size", &saving.base.handed)?;
    if log.is_wanted() {
        line("aof_current_size", &figures.size)?;
        line("aof_base_size", &figures.base)?;
        line("aof_pending_rewrite", &0)?;
        line("aof_buffer_length", &figures.waiting)?;
        line("aof_pending_bio_fsync", &u8::from(figures.syncing))?;
        line("aof_delayed_fsync", &figures.delayed)?;
    }
    let guard = &shared.guard;
    line("rollback_protection", &guard.protection())?;
    if guard.protection() != "none" {
        line("rollback_epoch", &guard.epoch())?;
        line("rollback_witness_status", &if guard.away().is_some() { "away" } else { "ok" })?;
    }
    if let Some(why) = guard.away() {
        line("rollback_witness_error", &one_line(why))?;
    }
    Ok(())
}

fn one_line(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}
