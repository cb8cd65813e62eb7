//! The process from which all containers are cloned. The node starts it.

use std::process::ExitCode;

use teemate_container::zygote;
use teemate_runner::body::Runner;
use teemate_sgx::DeviceKind;

fn main() -> ExitCode {
    let runner = match runner(std::env::args().skip(1)) {
        Ok(runner) => runner,
        Err(message) => {
            eprintln!("teemate-zygote: {message}; the node starts this program, not you");
            return ExitCode::from(2);
        }
    };
    match zygote::control_socket().and_then(|socket| zygote::serve(socket, runner)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("teemate-zygote: {error}");
            ExitCode::FAILURE
        }
    }
}

fn runner(mut arguments: impl Iterator<Item = String>) -> Result<Runner, String> {
    let mut runner = Runner::default();
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name:?} needs a value"))?;
        match name.as_str() {
            "--device" => {
                runner.device = Some(match value.as_str() {
                    "sgx" => DeviceKind::Sgx,
                    "simulator" => DeviceKind::Simulator,
                    _ => return Err(format!("there is no device {value:?}")),
                });
            }
            "--tcs-count" => runner.tcs_count = value.parse().map_err(|_| format!("{value:?} is no number of TCSs"))?,
            _ => return Err(format!("{name:?} is unknown")),
        }
    }
    Ok(runner)
}
