//! A body that becomes another program: for the baselines (a native payload, a Node container), which need `execve`.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::sys;
use crate::zygote::Start;

/// A program to run, as a container's payload. Use it with [`crate::protocol::Filter::None`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Path inside the container, or, if `from_descriptor`, only the name that it sees as its own.
    pub program: String,
    /// Arguments after the program's own name.
    pub arguments: Vec<String>,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    /// Working directory inside.
    pub directory: Option<String>,
    /// The program is the body's last descriptor (a static binary of the host, say), not a path inside.
    pub from_descriptor: bool,
}

/// Exit code when the program could not be executed, as shells have it.
pub const EXIT_NOT_EXECUTED: i32 = 127;

impl Command {
    /// As a payload.
    ///
    /// # Errors
    /// If it is too large to encode.
    pub fn to_payload(&self) -> Result<Vec<u8>> {
        postcard::to_stdvec(self).map_err(|error| Error::Invalid(format!("the command cannot be encoded: {error}")))
    }

    /// For [`crate::zygote::Body::run`]: become the program that the payload names. The body's descriptors stay open under their numbers.
    /// Returns only if that fails; the reason is on standard error.
    #[must_use]
    pub fn execute(mut start: Start) -> i32 {
        let error = match postcard::from_bytes::<Self>(&start.payload) {
            Ok(command) => command.become_it(&mut start.descriptors),
            Err(error) => format!("the payload is no command: {error}"),
        };
        eprintln!("{error}");
        EXIT_NOT_EXECUTED
    }

    fn become_it(&self, descriptors: &mut Vec<OwnedFd>) -> String {
        let program = if self.from_descriptor { descriptors.pop() } else { None };
        for fd in descriptors.iter() {
            if let Err(error) = sys::keep_over_exec(fd) {
                return format!("cannot keep a descriptor open: {error}");
            }
        }
        if let Some(directory) = &self.directory
            && let Err(error) = std::env::set_current_dir(directory)
        {
            return format!("cannot change to {directory}: {error}");
        }
        let strings = || -> std::result::Result<_, std::ffi::NulError> {
            let name = CString::new(self.program.as_str())?;
            let mut arguments = vec![name.clone()];
            for argument in &self.arguments {
                arguments.push(CString::new(argument.as_str())?);
            }
            let environment =
                self.environment.iter().map(|(k, v)| CString::new(format!("{k}={v}"))).collect::<std::result::Result<Vec<_>, _>>()?;
            Ok((name, arguments, environment))
        };
        let Ok((name, arguments, environment)) = strings() else { return "a word of the command contains a zero byte".into() };
        let error = match program {
            Some(fd) => sys::execute_descriptor(&fd, &arguments, &environment),
            None => sys::execute(&name, &arguments, &environment),
        };
        format!("cannot execute {}: {error}", self.program)
    }
}
