//! Docker runs containers that share the node's enclave: `docker run --runtime io.containerd.teemate.v1`.
#![allow(clippy::unwrap_used)]

use std::thread;
use std::time::{Duration, Instant};

use teemate_client::oci;
use teemate_tests::artifacts::Artifacts;
use teemate_tests::containerd::{RUNTIME, busybox};
use teemate_tests::docker::Docker;
use teemate_tests::skip;

const FUNCTION: &str = "docker.io/teemate/function:1";
const BUSYBOX: &str = "docker.io/teemate/busybox:1";
const SOURCE: &str = "
async function main(p) {
  if (p.fail) throw new Error('asked to fail');
  console.log('log of ' + p.name);
  for (const end = Date.now() + (p.spin || 0); Date.now() < end; );
  const text = p.path && require('fs').readFileSync(p.path, 'utf8');
  return { greeting: 'Hello ' + p.name, mode: process.env.MODE, text };
}";

#[test]
fn docker_runs_pauses_measures_and_kills_functions() {
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => return skip(reason),
    };
    if let Some(reason) = Docker::missing(&artifacts) {
        return skip(reason);
    }
    let docker = Docker::start(&artifacts).unwrap_or_else(|error| panic!("{error}"));
    docker.load(&oci::function(FUNCTION, "hello.js", SOURCE.as_bytes().to_vec())).unwrap();

    let said = docker.run(&["--rm", "--env", "MODE=test"], FUNCTION, &["name=Ada"]);
    assert_eq!(said.status, 0, "{said:?}\n{}", docker.last_words());
    assert_eq!(said.stdout, "{\"greeting\":\"Hello Ada\",\"mode\":\"test\"}\n");
    assert!(said.stderr.contains("log of Ada"), "{said:?}");
    let said = docker.run(&["--rm"], FUNCTION, &["fail=true"]);
    assert!(said.status == 1 && said.stderr.contains("asked to fail"), "{said:?}");

    // A volume, and parameters on standard input.
    let volume = docker.containerd.directory().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "of a volume").unwrap();
    let mount = format!("{}:/data:ro", volume.display());
    let said = docker.run(&["--rm", "--volume", &mount], FUNCTION, &["path=/data/file"]);
    assert!(said.status == 0 && said.stdout.contains("of a volume"), "{said:?}\n{}", docker.last_words());
    let words =
        ["run", "--rm", "--interactive", "--runtime", RUNTIME, "--network", "none", "--annotation", "io.teemate.stdin=params", FUNCTION];
    let said = docker.docker_reading("{\"name\": \"input\"}", &words);
    assert!(said.status == 0 && said.stdout.contains("Hello input"), "{said:?}\n{}", docker.last_words());

    // In the background, with Docker's own limits.
    let spin = |name: &str| {
        let options = ["--detach", "--name", name, "--memory", "96m", "--cpus", "0.5", "--annotation", "io.teemate.timeout-ms=55000"];
        let process = ["--user", "1000:3000", "--ulimit", "nofile=100:200"];
        let said = docker.run(&[&options[..], &process].concat(), FUNCTION, &["name=x", "spin=50000"]);
        assert_eq!(said.status, 0, "{said:?}\n{}", docker.last_words());
    };
    let inspect = |name: &str, what: &str| docker.docker(&["inspect", "--format", what, name]).stdout.trim().to_owned();
    spin("one");
    spin("two");
    let pid: u32 = inspect("one", "{{.State.Pid}}").parse().unwrap();
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    assert!(read("gid_map").trim_start().starts_with("3000 "), "{}", read("gid_map"));
    let limit = read("limits").lines().find_map(|line| line.strip_prefix("Max open files").map(str::to_owned)).unwrap();
    assert_eq!(limit.split_whitespace().take(2).collect::<Vec<_>>(), ["100", "200"]);
    let ps = docker.containerd.node.ps().unwrap();
    let of = |pid: u32| ps.containers.iter().find(|container| container.pid == pid).unwrap_or_else(|| panic!("{pid} is none of {ps:?}"));
    let other = of(inspect("two", "{{.State.Pid}}").parse().unwrap());
    assert_eq!((of(pid).role.as_str(), of(pid).enclave), ("function", other.enclave), "they share one enclave");
    // The limit of its group has room for the process that carries it.
    let said = docker.docker(&["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "one"]);
    assert!(said.status == 0 && said.stdout.contains("/ 224MiB") && !said.stdout.starts_with("0B"), "{said:?}\n{}", docker.last_words());
    assert!(docker.docker(&["exec", "one", "/bin/sh"]).status != 0, "nothing can be executed in a function");

    let said = docker.docker(&["update", "--memory", "128m", "--memory-swap", "128m", "--cpus", "0.25", "one"]);
    assert_eq!(said.status, 0, "{said:?}\n{}", docker.last_words());
    let said = docker.docker(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "one"]);
    assert!(said.status == 0 && said.stdout.contains("/ 256MiB"), "{said:?}");
    let said = docker.docker(&["update", "--cpu-shares", "512", "two"]);
    assert!(said.status != 0 && said.stderr.contains("nothing else"), "{said:?}");

    // OpenWhisk's invoker lives on these two.
    let time = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        text.rsplit_once(") ").unwrap().1.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum::<u64>()
    };
    assert_eq!(docker.docker(&["pause", "one"]).status, 0, "{}", docker.last_words());
    assert_eq!(inspect("one", "{{.State.Status}}"), "paused");
    let before = time();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(time(), before);
    assert_eq!(docker.docker(&["unpause", "one"]).status, 0);
    let end = Instant::now() + Duration::from_secs(20);
    while time() == before {
        assert!(Instant::now() < end, "it does not go on");
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(docker.docker(&["kill", "one"]).status, 0);
    assert_eq!(docker.docker(&["wait", "one"]).stdout.trim(), "137");
    assert_eq!(docker.docker(&["stop", "--time", "5", "two"]).status, 0);
    assert_eq!(inspect("two", "{{.State.ExitCode}}"), "143");
    // The same container again, as Docker's users may.
    assert_eq!(docker.docker(&["start", "two"]).status, 0, "{}", docker.last_words());
    assert_eq!(inspect("two", "{{.State.Status}}"), "running");
    let said = docker.docker(&["rm", "--force", "one", "two"]);
    assert_eq!(said.status, 0, "{said:?}");

    // Output that Docker keeps.
    let said = docker.run(&["--detach", "--name", "kept"], FUNCTION, &["name=Bo"]);
    assert_eq!(said.status, 0, "{said:?}");
    assert_eq!(docker.docker(&["wait", "kept"]).stdout.trim(), "0");
    let said = docker.docker(&["logs", "kept"]);
    assert!(said.stdout.contains("Hello Bo") && said.stderr.contains("log of Bo"), "{said:?}");
    docker.docker(&["rm", "kept"]);

    if let Some(image) = busybox(BUSYBOX) {
        docker.load(&image).unwrap();
        let said = docker.run(&["--rm"], BUSYBOX, &["-c", "echo out; exit 3"]);
        assert_eq!((said.status, said.stdout.as_str()), (3, "out\n"), "{said:?}\n{}", docker.last_words());
    }
    let ps = docker.containerd.node.at_rest().unwrap();
    assert!(ps.containers.iter().all(|container| container.role != "function"), "{ps:?}");
}
