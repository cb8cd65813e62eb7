//! OpenWhisk's action protocol: what an invoker says to a container, `POST /init` once and then `POST /run`.
//!
//! Here is what the protocol says, in which state, with which words; carrying it out is a [`Backend`]'s. Measured against Apache's runtime
//! for Node.js: its status codes, sentences and end markers are what an invoker and its users know.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};

/// The line that ends an activation's output, on stdout and stderr: an invoker reads up to it.
pub const MARKER: &str = "XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX";

/// What `/init` brings.
#[derive(Clone, Debug, PartialEq)]
pub struct Init {
    /// Name of the action, as its users know it.
    pub name: String,
    /// Entry point.
    pub main: String,
    /// Source, or base64 of a zip archive or a WebAssembly module.
    pub code: String,
    /// Whether it is base64.
    pub binary: bool,
    /// Environment variables.
    pub env: Vec<(String, String)>,
}

/// What `/run` brings.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Parameters: an object or an array.
    pub value: Value,
    /// Variables, without `__OW_`.
    pub env: Vec<(String, String)>,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Ran {
    /// The result, or the sentence that says why there is none.
    pub result: Result<Value, String>,
    /// Lines, and whether each went to stderr.
    pub lines: Vec<(bool, String)>,
}

/// Carries it out.
pub trait Backend: Send + Sync {
    /// Makes the action ready.
    ///
    /// # Errors
    /// What is wrong with it.
    fn init(&self, init: &Init) -> Result<(), String>;
    /// Runs it.
    fn run(&self, call: &Call) -> Ran;
}

/// An answer, and what the container's output gets before it is given.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: Value,
    /// Lines, and whether each goes to stderr.
    pub lines: Vec<(bool, String)>,
    /// Whether an activation has ended: [`MARKER`] goes to both.
    pub ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Ready,
    Starting,
    Running,
    Stopped,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Status::Ready => "ready",
            Status::Starting => "starting",
            Status::Running => "running",
            Status::Stopped => "stopped",
        }
    }
}

/// A container that speaks the protocol.
pub struct Container<B> {
    backend: B,
    /// And whether it has an action.
    status: Mutex<(Status, bool)>,
}

impl<B: Backend> Container<B> {
    /// One that has no action yet.
    pub fn new(backend: B) -> Self {
        Container { backend, status: Mutex::new((Status::Ready, false)) }
    }

    /// What carries it out.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    fn status(&self) -> MutexGuard<'_, (Status, bool)> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `POST /init`.
    pub fn init(&self, body: &Value) -> Reply {
        {
            let mut status = self.status();
            match *status {
                (_, true) => return refused("Cannot initialize the action more than once."),
                (Status::Ready, false) => status.0 = Status::Starting,
                (other, false) => return refused(&format!("System not ready, status is {}.", other.word())),
            }
        }
        let Some(init) = Init::read(body) else {
            self.status().0 = Status::Ready;
            return Reply { lines: Vec::new(), ..refused("Missing main/no code to execute.") };
        };
        match self.backend.init(&init) {
            Ok(()) => {
                *self.status() = (Status::Ready, true);
                Reply { status: 200, body: json!({ "OK": true }), lines: Vec::new(), ended: false }
            }
            Err(why) => {
                self.status().0 = Status::Stopped;
                let why = why.strip_prefix("Initialization has failed due to: ").unwrap_or(&why).to_owned();
                let lines = vec![(true, format!("Error during initialization: {why}"))];
                Reply { lines, ended: true, ..error(502, &format!("Initialization has failed due to: {why}")) }
            }
        }
    }

    /// `POST /run`.
    pub fn run(&self, body: &Value) -> Reply {
        {
            let mut status = self.status();
            match *status {
                (_, false) => return refused("System not initialized."),
                (Status::Ready, true) => status.0 = Status::Running,
                (other, true) => return refused(&format!("System not ready, status is {}.", other.word())),
            }
        }
        let call = match Call::read(body) {
            Ok(call) => call,
            Err(kind) => {
                // Apache's runtime stays in `running` here for good; nothing has run, so this one takes the next call.
                self.status().0 = Status::Ready;
                return refused(&format!("Internal system error: the argument must be a dictionary but has type '{kind}'."));
            }
        };
        let Ran { result, lines } = self.backend.run(&call);
        let reply = match result {
            Ok(value @ (Value::Object(_) | Value::Array(_))) => {
                self.status().0 = Status::Ready;
                Reply { status: 200, body: value, lines: Vec::new(), ended: true }
            }
            Ok(_) => {
                self.status().0 = Status::Ready;
                error(502, "The action did not return a dictionary.")
            }
            Err(why) => {
                // An action that failed is not called again: the invoker takes another container.
                self.status().0 = Status::Stopped;
                error(502, &why)
            }
        };
        Reply { lines, ended: true, ..reply }
    }
}

impl Init {
    fn read(body: &Value) -> Option<Init> {
        let value = body.get("value")?;
        let text = |member: &str| value[member].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let env = value["env"].as_object().into_iter().flatten().map(|(name, value)| (name.clone(), as_text(value))).collect();
        let name = value["name"].as_str().unwrap_or_default().to_owned();
        Some(Init { name, main: text("main")?, code: text("code")?, binary: value["binary"] == true, env })
    }
}

impl Call {
    /// # Errors
    /// The type of a value that is no object.
    fn read(body: &Value) -> Result<Call, &'static str> {
        let value = match body.get("value") {
            None | Some(Value::Null) => Value::Object(Map::new()),
            Some(value @ (Value::Object(_) | Value::Array(_))) => value.clone(),
            Some(Value::String(_)) => return Err("string"),
            Some(Value::Number(_)) => return Err("number"),
            Some(Value::Bool(_)) => return Err("boolean"),
        };
        let is_name = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let members = body.as_object().into_iter().flatten().filter(|(name, _)| *name != "value" && is_name(name));
        let env = members.filter_map(|(name, value)| Some((name.to_ascii_uppercase(), value.as_str()?.to_owned()))).collect();
        Ok(Call { value, env })
    }
}

/// As Node.js shows a value that becomes a variable.
fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(false) => String::new(),
        other => other.to_string(),
    }
}

fn error(status: u16, why: &str) -> Reply {
    Reply { status, body: json!({ "error": why }), lines: Vec::new(), ended: false }
}

fn refused(why: &str) -> Reply {
    Reply { lines: vec![(true, format!("Internal system error: {why}"))], ..error(403, why) }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Does what the code says.
    struct Scripted(Mutex<String>);

    impl Backend for Scripted {
        fn init(&self, init: &Init) -> Result<(), String> {
            *self.0.lock().unwrap() = init.code.clone();
            if init.code == "broken" { Err("SyntaxError: no".to_owned()) } else { Ok(()) }
        }

        fn run(&self, call: &Call) -> Ran {
            let code = self.0.lock().unwrap().clone();
            let result = match code.as_str() {
                "throw" => Err("An error has occurred: Error: boom".to_owned()),
                "number" => Ok(json!(1)),
                "env" => Ok(call.env.iter().cloned().map(|(name, value)| (name, value.into())).collect::<Map<_, _>>().into()),
                _ => Ok(call.value.clone()),
            };
            Ran { result, lines: vec![(false, "said".to_owned())] }
        }
    }

    fn container(code: &str) -> Container<Scripted> {
        let container = Container::new(Scripted(Mutex::default()));
        assert_eq!(container.init(&json!({ "value": { "main": "main", "code": code } })).body, json!({ "OK": true }));
        container
    }

    #[test]
    fn each_state_has_its_answer() {
        let container = Container::new(Scripted(Mutex::default()));
        let answer = |reply: Reply| (reply.status, reply.body["error"].as_str().unwrap_or_default().to_owned(), reply.ended);
        assert_eq!(answer(container.run(&json!({}))), (403, "System not initialized.".into(), false));
        for nothing in [
            json!(null),
            json!({}),
            json!({ "value": {} }),
            json!({ "value": { "main": "main" } }),
            json!({ "value": { "code": "x", "main": "" } }),
        ] {
            assert_eq!(answer(container.init(&nothing)), (403, "Missing main/no code to execute.".into(), false), "{nothing}");
        }
        let good = json!({ "value": { "main": "main", "code": "echo" } });
        assert_eq!(container.init(&good).status, 200);
        assert_eq!(answer(container.init(&good)), (403, "Cannot initialize the action more than once.".into(), false));
    }

    #[test]
    fn a_failed_initialisation_is_final() {
        let container = Container::new(Scripted(Mutex::default()));
        let broken = json!({ "value": { "main": "main", "code": "broken" } });
        let reply = container.init(&broken);
        assert_eq!((reply.status, reply.ended), (502, true));
        assert_eq!(reply.body, json!({ "error": "Initialization has failed due to: SyntaxError: no" }));
        assert_eq!(container.init(&broken).body, json!({ "error": "System not ready, status is stopped." }));
        assert_eq!(container.run(&json!({})).body, json!({ "error": "System not initialized." }));
    }

    #[test]
    fn results() {
        for (code, body, status, answer) in [
            ("echo", json!({ "value": { "a": "ü" } }), 200, json!({ "a": "ü" })),
            ("echo", json!({ "value": [1, 2] }), 200, json!([1, 2])),
            ("echo", json!({}), 200, json!({})),
            ("echo", json!({ "value": null }), 200, json!({})),
            ("echo", json!({ "value": { "error": "mine" } }), 200, json!({ "error": "mine" })),
            ("number", json!({}), 502, json!({ "error": "The action did not return a dictionary." })),
            ("throw", json!({}), 502, json!({ "error": "An error has occurred: Error: boom" })),
        ] {
            let reply = container(code).run(&body);
            assert_eq!((reply.status, &reply.body, reply.ended), (status, &answer, true), "{code}");
            assert_eq!(reply.lines, [(false, "said".to_owned())]);
        }
        for (value, kind) in [(json!("x"), "string"), (json!(1), "number"), (json!(true), "boolean")] {
            let container = container("echo");
            let reply = container.run(&json!({ "value": value }));
            let sentence = format!("Internal system error: the argument must be a dictionary but has type '{kind}'.");
            assert_eq!((reply.status, &reply.body), (403, &json!({ "error": sentence })));
            assert_eq!(container.run(&json!({})).status, 200, "nothing ran, so the next call does");
        }
    }

    #[test]
    fn an_action_that_failed_is_not_called_again() {
        let container = container("throw");
        assert_eq!(container.run(&json!({})).status, 502);
        assert_eq!(container.run(&json!({})).body, json!({ "error": "System not ready, status is stopped." }));
    }

    #[test]
    fn members_beside_the_value_become_variables() {
        let reply = container("env").run(&json!({ "value": {}, "activation_id": "a", "deadline": "5", "n": 1, "x-y": "no" }));
        assert_eq!(reply.body, json!({ "ACTIVATION_ID": "a", "DEADLINE": "5" }));
    }

    #[test]
    fn one_call_at_a_time() {
        struct Slow(Mutex<mpsc::Receiver<()>>, mpsc::Sender<()>);
        impl Backend for Slow {
            fn init(&self, _: &Init) -> Result<(), String> {
                Ok(())
            }
            fn run(&self, _: &Call) -> Ran {
                self.1.send(()).unwrap();
                self.0.lock().unwrap().recv().unwrap();
                Ran { result: Ok(json!({})), lines: Vec::new() }
            }
        }
        let (go, wait) = mpsc::channel();
        let (began, begun) = mpsc::channel();
        let container = Container::new(Slow(Mutex::new(wait), began));
        container.init(&json!({ "value": { "main": "main", "code": "x" } }));
        std::thread::scope(|scope| {
            let first = scope.spawn(|| container.run(&json!({})));
            begun.recv().unwrap();
            assert_eq!(container.run(&json!({})).body, json!({ "error": "System not ready, status is running." }));
            go.send(()).unwrap();
            assert_eq!(first.join().unwrap().status, 200);
        });
    }
}
