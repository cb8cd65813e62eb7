//! Compiles Lua 5.1.5 and `engine/engine.c` to WebAssembly. Without a compiler for it the crate builds too, and says so when somebody runs a script.

use std::path::{Path, PathBuf};
use std::process::Command;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=engine");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=TEEMATE_CLANG");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let module = out.join("lua-engine.wasm");
    let text = match compile(&module) {
        Ok(()) => format!("Some(include_bytes!({module:?}))"),
        Err(error) => {
            println!(
                "cargo:warning=scripts in Lua will not run: {error}; apt-get install clang-19 lld-19 libclang-rt-19-dev-wasm32 wasi-libc"
            );
            "None".to_owned()
        }
    };
    std::fs::write(out.join("engine.rs"), text)?;
    Ok(())
}

fn compile(module: &Path) -> Result<()> {
    let own = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?).join("engine");
    let clang = std::env::var("TEEMATE_CLANG").unwrap_or_else(|_| "clang-19".to_owned());
    let sources = lua(&own.join("sources"))?;
    let object = module.with_extension("o");
    let mut command = Command::new(&clang);
    command.args(["--target=wasm32-wasi", "-O2", "-DNDEBUG", "-w", "-msign-ext", "-mbulk-memory", "-mnontrapping-fptoint"]);
    command.arg(format!("-ffile-prefix-map={}=lua", sources.display())).arg("-I").arg(own.join("include")).arg("-I").arg(&sources);
    run(command.arg("-c").arg(own.join("engine.c")).arg("-o").arg(&object))?;
    // Linked apart, and without -O: with it clang runs the machine's wasm-opt if there is one.
    let mut command = Command::new(&clang);
    command.args(["--target=wasm32-wasi", "-mexec-model=reactor"]).arg(&object).arg("-o").arg(module);
    // The stack at address 0: its overflow is an access below memory, which traps.
    run(command.args(["-Wl,--stack-first,-z,stack-size=1048576,--strip-all,--export=__stack_pointer"]))
}

/// Where cargo keeps the C sources.
fn lua(package: &Path) -> Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--locked", "--format-version", "1", "--manifest-path"]).arg(package.join("Cargo.toml"));
    let metadata = command.output()?;
    if !metadata.status.success() {
        return Err("the sources of Lua cannot be fetched".into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout)?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    let package = packages.iter().find(|package| package["name"] == "lua-src").ok_or("cargo metadata lists no lua-src")?;
    let manifest = package["manifest_path"].as_str().ok_or("cargo metadata gives no path")?;
    Ok(Path::new(manifest).parent().ok_or("a manifest has a folder")?.join("lua-5.1.5"))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).lines().take(5).collect::<Vec<_>>().join(" ").into());
    }
    Ok(())
}
