//! The control socket: one JSON object a line, from users that may.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::event::{PollFd, PollFlags, poll};
use teemate_control::function::{Failure, FailureKind, FunctionSpec};
use teemate_control::node::{Request, Response};
use teemate_control::packet::MAX_MESSAGE;
use teemate_control::service::{Order, OrderDone};
use teemate_control::task::TaskInfo;

use crate::error::{Error, Result};
use crate::gateway;
use crate::node::Node;

/// Longest request: the code of the largest function and its files, in base64.
const MAX_LINE: u64 = 2 * MAX_MESSAGE as u64;
/// Connections at one time.
const MAX_CONNECTIONS: usize = 512;
/// The longest wait for a task's end.
const TASK_WAIT_MS: u64 = 60_000;
/// How long a client may leave an answer unread.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// The socket, removed at the end.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Listens. A socket that nobody answers at is replaced.
    pub fn bind(path: &Path) -> Result<Control> {
        if let Some(directory) = path.parent()
            && !directory.is_dir()
        {
            std::fs::create_dir_all(directory).map_err(Error::system(format!("make the directory {}", directory.display())))?;
            let _ = std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700));
        }
        if UnixStream::connect(path).is_ok() {
            return Err(Error::SocketInUse(path.to_owned()));
        }
        match std::fs::symlink_metadata(path) {
            Ok(meta) if meta.file_type().is_socket() => {
                std::fs::remove_file(path).map_err(Error::system(format!("remove the stale socket {}", path.display())))?;
            }
            Ok(_) => return Err(Error::Invalid(format!("{} is there and is no socket; take another --socket", path.display()))),
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(Error::system(format!("listen at {}", path.display())))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(Error::system(format!("restrict the socket {}", path.display())))?;
        Ok(Control { listener, path: path.to_owned() })
    }

    /// Answers connections, each on a thread of its own, for the rest of the process's life.
    pub fn serve(&self, node: &Arc<Node>) -> Result<()> {
        let listener = self.listener.try_clone().map_err(Error::system("share the control socket"))?;
        let node = Arc::clone(node);
        let accept = move || {
            let connections = Arc::new(AtomicUsize::new(0));
            for stream in listener.incoming() {
                let stream = match stream {
                    Ok(stream) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        std::thread::sleep(Duration::from_millis(50));
                        continue;
                    }
                };
                if connections.fetch_add(1, Ordering::AcqRel) >= MAX_CONNECTIONS {
                    connections.fetch_sub(1, Ordering::AcqRel);
                    refuse(stream, FailureKind::Busy, &format!("{MAX_CONNECTIONS} connections are open already; try again in a moment"));
                    continue;
                }
                let (node, open) = (Arc::clone(&node), Arc::clone(&connections));
                let spawned = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
                    converse(&node, stream);
                    open.fetch_sub(1, Ordering::AcqRel);
                });
                if let Err(error) = spawned {
                    connections.fetch_sub(1, Ordering::AcqRel);
                    tracing::warn!(%error, "no thread for a connection");
                }
            }
        };
        let spawned = std::thread::Builder::new().name("accept".to_owned()).spawn(accept);
        spawned.map(|_| ()).map_err(Error::system("start a thread of the node"))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn refuse(mut stream: UnixStream, kind: FailureKind, message: &str) {
    let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
    let _ = stream.write_all(&line(&Response::Failed(Failure::new(kind, message))));
}

fn line(response: &Response) -> Vec<u8> {
    let mut line = serde_json::to_vec(response).unwrap_or_else(|error| {
        // No type of an answer refuses to be JSON; if one ever does, the client still gets a line.
        format!(
            r#"{{"response":"failed","kind":"internal","message":"the answer can't be written: {}"}}"#,
            error.to_string().escape_default()
        )
        .into_bytes()
    });
    line.push(b'\n');
    line
}

fn converse(node: &Arc<Node>, mut stream: UnixStream) {
    let own = rustix::process::geteuid();
    match rustix::net::sockopt::socket_peercred(&stream) {
        Ok(peer) if peer.uid.is_root() || peer.uid == own => {}
        Ok(peer) => {
            tracing::warn!(uid = peer.uid.as_raw(), "a user that may not asked for a connection");
            let text = format!("only user {} and root may speak to this node", own.as_raw());
            return refuse(stream, FailureKind::Denied, &text);
        }
        Err(error) => {
            tracing::warn!(%error, "a peer's user can't be read");
            return;
        }
    }
    let _ = stream.set_write_timeout(Some(WRITE_LIMIT));
    let Ok(reading) = stream.try_clone() else { return };
    let mut reader = BufReader::with_capacity(64 << 10, reading);
    loop {
        let mut text = Vec::new();
        match reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut text) {
            Ok(0) | Err(_) => return,
            Ok(_) if !text.ends_with(b"\n") => {
                if text.len() as u64 >= MAX_LINE {
                    refuse(stream, FailureKind::Invalid, &format!("a request may have at most {MAX_LINE} bytes"));
                }
                return;
            }
            Ok(_) => {}
        }
        let received_ns = teemate_runner::board::now_ns();
        let (response, rest) = match parse(&text) {
            Ok(request) => {
                drop(text);
                answer(node, request, received_ns, &stream)
            }
            Err(failure) => (Response::Failed(failure), None),
        };
        let written = stream.write_all(&line(&response));
        // What is left of a call of its own is taken down after its answer is out.
        drop(rest);
        if written.is_err() {
            return;
        }
    }
}

/// A request, or what is wrong with it.
pub fn parse(text: &[u8]) -> std::result::Result<Request, Failure> {
    serde_json::from_slice(text).map_err(|error| {
        Failure::new(FailureKind::Invalid, format!("the request can't be understood: {error}; node and client must be of the same version"))
    })
}

/// What must be dropped after the answer is out.
pub type Rest = Option<Box<dyn Send>>;

fn answer(node: &Arc<Node>, request: Request, received_ns: u64, stream: &UnixStream) -> (Response, Rest) {
    let failed = |error: Error| Response::Failed(error.failure());
    let response = match request {
        Request::Invoke { name, params, sharing } => {
            return node.invoke(&name, params, sharing, received_ns, &|| hung_up(stream));
        }
        Request::Status => Response::Status(node.status()),
        Request::Deploy { spec, code, files } => deploy(node, spec, &code, &files).unwrap_or_else(Response::Failed),
        Request::Functions => Response::Functions { functions: node.functions() },
        Request::Function { name } => node.function(&name).map_or_else(failed, Response::Function),
        Request::Delete { name } => node.delete(&name).map_or_else(Response::Failed, |()| Response::Ok),
        Request::Logs { name, last } => node.logs(&name, last).map_or_else(failed, |calls| Response::Logs { calls }),
        Request::Ps => Response::Ps(node.ps()),
        Request::Metrics => Response::Metrics { text: node.metrics() },
        Request::Kill { container } => node.kill(container).map_or_else(failed, |()| Response::Ok),
        Request::Invite { namespace, allowance } => match node.administer(Order::Invite { namespace, allowance }) {
            Ok(OrderDone::Claim { token, expires }) => {
                Response::Invitation { token, expires, endpoint: node.endpoint().unwrap_or_default() }
            }
            Ok(_) => mixed_up(),
            Err(failure) => Response::Failed(failure),
        },
        Request::Owners => match node.administer(Order::Owners) {
            Ok(OrderDone::Owners(owners)) => Response::Owners { owners },
            Ok(_) => mixed_up(),
            Err(failure) => Response::Failed(failure),
        },
        Request::RemoveOwner { namespace } => {
            let removed = node.administer(Order::RemoveOwner { namespace }).and_then(gateway::expect_done);
            removed.map_or_else(Response::Failed, |()| Response::Ok)
        }
        Request::Upgrade { image } => node.upgrade(&image).map_or_else(Response::Failed, |mrenclave| Response::Upgraded { mrenclave }),
        Request::TaskCreate { task } => task_answer(node.tasks().create(node, *task)),
        Request::TaskStart { id, params } => task_answer(node.tasks().start(&id, params)),
        Request::TaskState { id } => task_answer(node.tasks().state(&id)),
        Request::TaskWait { id, within_ms } => {
            task_answer(node.tasks().wait(&id, Duration::from_millis(within_ms.min(TASK_WAIT_MS)), &|| hung_up(stream)))
        }
        Request::TaskKill { id, signal } => task_answer(node.tasks().kill(&id, signal)),
        Request::TaskPause { id } => task_answer(node.tasks().pause(&id)),
        Request::TaskResume { id } => task_answer(node.tasks().resume(&id)),
        Request::TaskStats { id } => node.tasks().stats(&id).map_or_else(Response::Failed, Response::TaskStats),
        Request::TaskUpdate { id, limits } => task_answer(node.tasks().update(&id, &limits)),
        Request::TaskDelete { id, force } => task_answer(node.tasks().delete(node, &id, force)),
        Request::Stop => {
            node.stop();
            Response::Ok
        }
    };
    (response, None)
}

fn task_answer(done: std::result::Result<TaskInfo, Failure>) -> Response {
    done.map_or_else(Response::Failed, Response::Task)
}

fn mixed_up() -> Response {
    Response::Failed(Failure::new(FailureKind::Internal, "the gateway gave another kind of answer than was asked for"))
}

fn deploy(node: &Arc<Node>, spec: FunctionSpec, code: &str, files: &[String]) -> std::result::Result<Response, Failure> {
    let decode = |what: &str, text: &str| {
        let invalid = |error| Failure::new(FailureKind::Invalid, format!("{what} is no base64: {error}"));
        STANDARD.decode(text).map_err(invalid)
    };
    let code = decode("the code", code)?;
    let files = files.iter().map(|file| decode("a file", file)).collect::<std::result::Result<Vec<_>, _>>()?;
    node.deploy(spec, &code, &files).map(Response::Function)
}

/// Has the client gone? Never waits.
fn hung_up(stream: &UnixStream) -> bool {
    let fd = stream.as_fd();
    let mut fds = [PollFd::new(&fd, PollFlags::empty())];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0) && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hostile_requests_are_errors(bytes: Vec<u8>, text in "\\{\"request\":\"[a-z]{0,10}\"[,:\"a-z0-9{}\\[\\]]{0,40}") {
            let _ = parse(&bytes);
            let _ = parse(text.as_bytes());
        }
    }

    #[test]
    fn deep_nesting_is_an_error() {
        let deep = format!(r#"{{"request":"invoke","name":"f","params":{}"#, "[".repeat(1_000_000));
        assert_eq!(parse(deep.as_bytes()).unwrap_err().kind, FailureKind::Invalid);
        assert!(matches!(parse(br#"{"request":"status"}"#), Ok(Request::Status)));
    }

    #[test]
    fn a_living_socket_is_not_taken_and_a_stale_one_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/node.sock");
        let mut control = Control::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(Control::bind(&path), Err(Error::SocketInUse(_))));
        // As after a kill: the file stays, nobody listens.
        control.path = PathBuf::from("/nonexistent");
        drop(control);
        assert!(path.exists());
        let again = Control::bind(&path).unwrap();
        drop(again);
        assert!(!path.exists());
        std::fs::write(&path, b"x").unwrap();
        assert!(matches!(Control::bind(&path), Err(Error::Invalid(_))));
    }
}
