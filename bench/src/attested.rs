//! End to end, as an owner calls: a new connection whose certificate is judged by the quote in it, the call, its result. One client makes
//! all calls of a function, so it judges that certificate in full once a minute, and otherwise only that the other end has its key.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use teemate_attestation::http::Request;
use teemate_attestation::{Connector, Endpoint, Policy, Session};
use teemate_control::function::Reuse;
use teemate_tests::archive;
use teemate_tests::artifacts::Artifacts;
use teemate_tests::owner::Owner;
use teemate_tests::running::Node;

use crate::workload::Workload;

/// Longest answer.
const MAX_ANSWER: usize = 16 << 20;
/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// An owner at a node's enclave.
pub struct Attested {
    owner: Owner,
    connector: Connector,
    endpoint: Endpoint,
    credentials: String,
}

impl Attested {
    /// Claims a namespace at this node's enclave, whose measurement the node tells: this measures, it does not trust.
    pub fn claim(artifacts: &Artifacts, node: &Node) -> Result<Attested> {
        let failed = |error: String| anyhow!(error);
        let owner = Owner::new(artifacts).map_err(failed)?;
        let policy = owner.policy("policy.toml", &format!("mrenclave = \"{}\"", node.status()?.mrenclave)).map_err(failed)?;
        owner.claim(node.socket(), "bench", node.endpoint(), &policy).map_err(failed)?;
        let auth = owner.auth().map_err(failed)?;
        Ok(Attested {
            connector: Connector::new(Policy::load(&policy)?)?,
            endpoint: node.endpoint().to_string().parse().map_err(failed)?,
            credentials: format!("Basic {}", STANDARD.encode(auth)),
            owner,
        })
    }

    /// Deploys a function; one with files of its own has them in its archive.
    pub fn deploy(&self, workload: &Workload) -> Result<()> {
        self.deploy_as(workload, &workload.name, Reuse::Fresh)
    }

    /// The same under a name and with a policy.
    pub fn deploy_as(&self, workload: &Workload, name: &str, reuse: Reuse) -> Result<()> {
        let deployment = &workload.deployment;
        let code = if deployment.files.is_empty() { deployment.code.clone() } else { self.archive(workload)? }.display().to_string();
        let reuse = match reuse {
            Reuse::Fresh => "fresh",
            Reuse::Rewind => "rewind",
            Reuse::Keep => "keep",
        };
        let mut arguments = vec!["--profile", "default", "function", "deploy", name, &code, "--reuse", reuse];
        for destination in &deployment.egress {
            arguments.extend(["--egress", destination]);
        }
        self.owner.json(&arguments).map(drop).map_err(|error| anyhow!(error))
    }

    /// The script and its files as a zip archive.
    fn archive(&self, workload: &Workload) -> Result<PathBuf> {
        let script = workload.script.as_deref().context("only a script can have files in an archive")?;
        let index = format!("{script}\nexports.main = main;\n");
        let read = |(local, inside): &(PathBuf, String)| std::fs::read(local).map(|content| (inside.clone(), content));
        let files = workload.deployment.files.iter().map(read).collect::<std::io::Result<Vec<_>>>()?;
        let mut all = vec![("index.js", index.as_bytes())];
        all.extend(files.iter().map(|(inside, content)| (inside.trim_start_matches('/'), content.as_slice())));
        let path = self.owner.home().join(format!("{}.zip", workload.name));
        std::fs::write(&path, archive::zip(&all)?)?;
        Ok(path)
    }

    /// One call on a connection of its own: how long it took, in microseconds, and its result.
    pub fn call(&self, workload: &Workload) -> Result<(f64, Value)> {
        let begin = Instant::now();
        let value = self.call_on(&mut self.session()?, &workload.name, &workload.params)?;
        Ok((begin.elapsed().as_secs_f64() * 1e6, value))
    }

    /// A connection for calls, verified.
    pub fn session(&self) -> Result<Session> {
        Ok(Session::open(&self.connector, &self.endpoint)?)
    }

    /// One call on this connection: its result.
    pub fn call_on(&self, session: &mut Session, name: &str, params: &Value) -> Result<Value> {
        let params = params.to_string();
        let path = format!("/api/v1/namespaces/_/actions/{name}?blocking=true&result=true");
        let request = Request {
            method: "POST",
            path: &path,
            headers: &[("Authorization", &self.credentials)],
            body: Some(("application/json", params.as_bytes())),
        };
        let response = session.client().send_within(&request, MAX_ANSWER, PATIENCE)?;
        let value = serde_json::from_slice(&response.body).context("the answer is not JSON")?;
        if response.status != 200 {
            bail!("HTTP {}: {value}", response.status);
        }
        Ok(value)
    }
}
