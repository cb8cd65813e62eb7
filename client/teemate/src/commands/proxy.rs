//! `teemate proxy`: plain local connections, verified for clients that can't verify.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use teemate_attestation::Endpoint;
use teemate_attestation::proxy::{Event, Options, Protocol, run as serve};

use super::database::known;
use super::policy;
use crate::arguments::attestation::{self, Proxy};
use crate::failure::Failure;
use crate::output::{Output, harmless};

/// Carries out `proxy`. It ends when it is killed.
pub fn run(arguments: &Proxy, output: &Output) -> Result<ExitCode, Failure> {
    let endpoint: Endpoint =
        arguments.endpoint.parse().map_err(|why| Failure::usage(format!("{:?} is no endpoint: {why}", arguments.endpoint)))?;
    if !arguments.listen.ip().is_loopback() && !arguments.insecure_remote {
        return Err(Failure::usage(format!(
            "{} is reached from other machines, and what they send there is not encrypted; --insecure-remote listens all the same",
            arguments.listen.ip()
        )));
    }
    let connector = policy::connector(&arguments.judge, None)?;
    let simulation = connector.policy().insecure_simulation;
    let (protocol, scheme, refusal) = match arguments.protocol {
        attestation::Protocol::Http => (Protocol::Http, "http", "502"),
        attestation::Protocol::Redis => (Protocol::Redis, "redis", "an error reply"),
        attestation::Protocol::Tcp => (Protocol::Tcp, "tcp", "reset"),
    };
    let options = Options {
        protocol,
        endpoint: endpoint.clone(),
        connections: usize::from(arguments.connections),
        idle: Duration::from_millis(arguments.idle.max(1)),
        known: match protocol {
            Protocol::Redis => Some(known(arguments.accept_database)?),
            Protocol::Http | Protocol::Tcp => None,
        },
    };
    let ready = |address| {
        let document = json!({ "listen": address, "endpoint": endpoint.to_string() });
        let told = output.result(&document, || {
            let warning = if simulation { "\nWARNING: the policy takes SIMULATED QUOTES, which prove nothing" } else { "" };
            format!("{endpoint} is verified; {scheme}://{address} leads there, and each connection is verified by itself{warning}")
        });
        // A reader that has gone does not stop the proxy.
        drop(told);
    };
    let tell = move |event: Event| {
        let text = match event {
            Event::Opened(_) | Event::Passed(_) | Event::Closed(..) => return,
            Event::Idle(from) => format!("{from}: closed, nothing moved on it"),
            Event::Refused(from, why) => format!("{from}: {refusal}, {why}"),
            Event::Accept(error) => format!("no connection can be accepted: {error}"),
        };
        let _ = writeln!(std::io::stderr(), "{}", harmless(&text));
    };
    serve(arguments.listen, connector, options, ready, tell)?;
    Ok(ExitCode::SUCCESS)
}
