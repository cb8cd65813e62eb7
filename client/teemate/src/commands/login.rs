//! `teemate login`: verifies an enclave, becomes or is an owner there, and keeps that as a profile.

use std::process::ExitCode;

use serde_json::json;
use teemate_client::enclave::Enclave;
use teemate_client::profile::Profile;

use crate::arguments::Login;
use crate::failure::Failure;
use crate::output::{Output, harmless};

/// Carries out `login`.
pub fn run(arguments: &Login, output: &Output) -> Result<ExitCode, Failure> {
    // A token works once: whatever can fail without it shall fail before.
    Profile::check_free(&arguments.name, arguments.replace)?;
    let policy = std::path::absolute(super::policy::path(&arguments.policy)?)?;
    let progress = output.progress("verifying the enclave's quote");
    let enclave = Enclave::new(&arguments.endpoint, &policy, None)?;
    let (namespace, auth) = match (&arguments.claim, &arguments.auth) {
        (Some(token), _) => claim(&enclave, token)?,
        (None, Some(auth)) => {
            let enclave = Enclave::new(&arguments.endpoint, &policy, Some(auth))?;
            let answer = enclave.ask("GET", "/api/v1/namespaces", None)?.body;
            (answer[0].as_str().unwrap_or_default().to_owned(), auth.clone())
        }
        (None, None) => return Err(Failure::usage("say who you are: --claim TOKEN from the node's administrator, or --auth UUID:KEY")),
    };
    progress.finish_and_clear();
    let profile = Profile { endpoint: enclave.endpoint(), policy, namespace, auth };
    let path = profile.save(&arguments.name)?;
    let document = json!({ "namespace": profile.namespace, "endpoint": profile.endpoint, "profile": path });
    output.result(&document, || {
        harmless(&format!(
            "you own the namespace {} at {}\nthe key is in {}, and nowhere else: keep it\n\
             use it with --profile {}, or TEEMATE_PROFILE={}",
            profile.namespace,
            profile.endpoint,
            path.display(),
            arguments.name,
            arguments.name
        ))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn claim(enclave: &Enclave, token: &str) -> Result<(String, String), Failure> {
    let body = enclave.ask("POST", "/teemate/v1/claim", Some(&json!({ "token": token })))?.body;
    let text = |member: &str| body[member].as_str().map(str::to_owned);
    match (text("namespace"), text("uuid"), text("key")) {
        (Some(namespace), Some(uuid), Some(key)) => Ok((namespace, format!("{uuid}:{key}"))),
        _ => Err(Failure::new("the enclave's answer to the claim holds no key; node and command line must be of the same version")),
    }
}
