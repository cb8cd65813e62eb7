//! `teemate image`: pure functions of files; no node is asked.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;
use teemate_client::oci;
use teemate_client::registry::{Credentials, Reference, Registry};
use teemate_control::envelope::{self, Release};
use teemate_image::{Error, ImageConfig, ImageSummary, SigningKey, describe};

use crate::arguments::{Form, Image};
use crate::failure::Failure;
use crate::output::{Output, bytes, table};

/// Largest program that is read: far above any payload, far below what would hurt.
const MAX_ELF: u64 = 512 << 20;
/// Largest configuration or key.
const MAX_TEXT: u64 = 1 << 20;
/// Sites that are listed; more are only counted.
const MAX_TRAPS: usize = 20;

/// Carries out an `image` command.
pub fn run(command: &Image, output: &Output) -> Result<ExitCode, Failure> {
    match command {
        Image::Build { libos, payload, config, output: to, key } => build(libos, payload, config.as_deref(), to, key.as_deref(), output),
        Image::Pack { code, name, output: to, form } => pack(&of_function(code, name, form)?, name, to, output),
        Image::Push { code, name, username, password_file, ca, plain_http, form } => {
            let login = username.as_deref().zip(password_file.as_deref());
            push(&of_function(code, name, form)?, name, login, ca.as_deref(), *plain_http, output)
        }
        Image::Sign { image, key, output: to } => sign(image, key, to.as_deref().unwrap_or(image), output),
        Image::Measure { image } => measure(image, output),
        Image::Verify { image, mrenclave, mrsigner } => verify(image, mrenclave.as_deref(), mrsigner.as_deref(), output),
        Image::Show { image } => show(image, output),
        Image::Keygen { key } => keygen(key, output),
    }
}

fn build(libos: &Path, payload: &Path, config: Option<&Path>, to: &Path, key: Option<&Path>, output: &Output) -> Result<ExitCode, Failure> {
    let config = match config {
        Some(path) => ImageConfig::from_toml(&read_text(path)?).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?,
        None => ImageConfig::default(),
    };
    let key = key.map(read_key).transpose()?;
    let (libos, payload) = (read(libos, MAX_ELF)?, read(payload, MAX_ELF)?);
    let progress = output.progress("building the image: placing, rewriting, measuring");
    let built = teemate_image::Image::build(&config, &libos, &payload).and_then(|mut image| {
        if let Some(key) = &key {
            image.sigstruct = Some(image.sign(key, today())?);
        }
        image.save(to)?;
        Ok(describe(&image))
    });
    progress.finish_and_clear();
    let summary = built?;
    output.result(&summary, || {
        format!(
            "{}\nMRENCLAVE  {}\npages      {} ({})\nsyscalls   {} sites: {} rewritten, {} left to trap",
            to.display(),
            summary.mrenclave,
            summary.pages,
            bytes(summary.pages * 4096),
            summary.sites.found,
            summary.sites.found - summary.sites.trap,
            summary.sites.trap
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The image of a function in this file.
fn of_function(code: &Path, name: &str, form: &Form) -> Result<oci::Image, Failure> {
    let file = code.file_name().and_then(|file| file.to_str()).unwrap_or_default();
    if !code.extension().is_some_and(|ending| ["js", "cjs", "wasm", "zip"].iter().any(|known| ending == *known)) {
        return Err(Failure::new(format!("{}: a function's file ends in .js, .cjs, .wasm or .zip", code.display())));
    }
    let content = read(code, teemate_client::deployment::MAX_CODE)?;
    if form.wasm_layer && !file.ends_with(".wasm") {
        return Err(Failure::new(format!("{}: only a .wasm file can be a layer by itself", code.display())));
    }
    let content = encrypted(content, form)?;
    let spec = if form.wasm_layer { oci::module(name, file, content) } else { oci::function(name, file, content) };
    oci::Image::build(&spec).map_err(Failure::new)
}

/// The code as the image has it.
fn encrypted(code: Vec<u8>, form: &Form) -> Result<Vec<u8>, Failure> {
    let Form { encrypt_key: Some(key), key_broker: Some(broker), key_broker_ca: Some(ca), key_resource: Some(resource), .. } = form else {
        return Ok(code);
    };
    let bytes = read(key, MAX_TEXT)?;
    let wrong = |why: &str| Failure::new(format!("{}: {why}", key.display()));
    if bytes.len() != envelope::KEY {
        return Err(wrong("a key has 32 bytes; make one with `head -c 32 /dev/urandom`, and give it to your broker"));
    }
    let release = Release { broker: broker.clone(), roots: read_text(ca)?, resource: resource.clone() };
    let mut sealed = envelope::associated(&release).ok_or_else(|| Failure::new(format!("{} is too long", ca.display())))?;
    let mut nonce = [0; envelope::NONCE];
    SystemRandom::new().fill(&mut nonce).map_err(|_| Failure::new("the system has no random bytes"))?;
    let cipher = UnboundKey::new(&AES_256_GCM, &bytes).map(LessSafeKey::new).map_err(|_| wrong("it can't be used as a key"))?;
    let mut content = code;
    cipher
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&sealed), &mut content)
        .map_err(|_| wrong("nothing can be encrypted with it"))?;
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(&content);
    Ok(sealed)
}

fn pack(image: &oci::Image, name: &str, to: &Path, output: &Output) -> Result<ExitCode, Failure> {
    let archive = image.archive().map_err(Failure::new)?;
    fs::write(to, &archive).map_err(|error| Failure::new(format!("{} can't be written: {error}", to.display())))?;
    output.result(&json!({ "image": name, "file": to, "bytes": archive.len() }), || {
        format!("{} holds {name}\nimport it with `ctr image import {}`", to.display(), to.display())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn push(
    image: &oci::Image,
    name: &str,
    login: Option<(&str, &Path)>,
    authority: Option<&Path>,
    plain: bool,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let reference = Reference::parse(name).map_err(Failure::usage)?;
    let credentials = match login {
        Some((username, file)) => {
            Some(Credentials { username: username.to_owned(), password: read_text(file)?.trim_end_matches(['\r', '\n']).to_owned() })
        }
        None => match docker_login() {
            Some(file) => Credentials::of_docker(&file, &reference).map_err(Failure::new)?,
            None => None,
        },
    };
    let authority = authority.map(|path| read(path, MAX_TEXT)).transpose()?;
    let progress = output.progress("pushing the image");
    let pushed = Registry::new(reference, credentials, plain, authority.as_deref()).and_then(|mut registry| registry.push(image));
    progress.finish_and_clear();
    let digest = pushed.map_err(Failure::new)?;
    output.result(&json!({ "image": name, "digest": digest }), || format!("pushed {name}\n{digest}"))?;
    Ok(ExitCode::SUCCESS)
}

/// Where `docker login` keeps what it was told.
fn docker_login() -> Option<PathBuf> {
    let directory = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let directory = directory.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".docker")))?;
    Some(directory.join("config.json"))
}

fn sign(path: &Path, key: &Path, to: &Path, output: &Output) -> Result<ExitCode, Failure> {
    let mut image = teemate_image::Image::load(path)?;
    let key = read_key(key)?;
    image.sigstruct = Some(image.sign(&key, today())?);
    image.save(to)?;
    let (mrenclave, mrsigner) = (hex(&image.measure()), hex(&key.mrsigner()));
    output.result(&json!({ "image": to, "mrenclave": mrenclave, "mrsigner": mrsigner }), || {
        format!("{} is signed\nMRENCLAVE  {mrenclave}\nMRSIGNER   {mrsigner}", to.display())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn measure(path: &Path, output: &Output) -> Result<ExitCode, Failure> {
    let mrenclave = hex(&teemate_image::Image::load(path)?.measure());
    output.result(&json!({ "mrenclave": mrenclave }), || mrenclave.clone())?;
    Ok(ExitCode::SUCCESS)
}

fn verify(path: &Path, mrenclave: Option<&str>, mrsigner: Option<&str>, output: &Output) -> Result<ExitCode, Failure> {
    let image = teemate_image::Image::load(path)?;
    image.check()?;
    let verified = image.verify()?;
    let (is, by) = (hex(&verified.mrenclave), hex(&verified.mrsigner));
    for (name, wanted, found) in [("MRENCLAVE", mrenclave, &is), ("MRSIGNER", mrsigner, &by)] {
        if let Some(wanted) = wanted
            && !wanted.eq_ignore_ascii_case(found)
        {
            return Err(Failure::new(format!("{}: its {name} is {found}, not {wanted}", path.display())));
        }
    }
    output.result(&json!({ "mrenclave": is, "mrsigner": by, "isv_prod_id": verified.isv_prod_id, "isv_svn": verified.isv_svn }), || {
        format!(
            "{}: layout and signature are right\nMRENCLAVE  {is}\nMRSIGNER   {by}\nproduct    {}, version {}",
            path.display(),
            verified.isv_prod_id,
            verified.isv_svn
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn show(path: &Path, output: &Output) -> Result<ExitCode, Failure> {
    let summary = describe(&teemate_image::Image::load(path)?);
    output.result(&summary, || text(&summary))?;
    Ok(ExitCode::SUCCESS)
}

fn text(summary: &ImageSummary) -> String {
    let signature = match &summary.signature {
        None => "none".to_owned(),
        Some(signature) => match (&signature.mrsigner, &signature.error) {
            (Some(mrsigner), _) => {
                format!("MRSIGNER {mrsigner}, product {}, version {}, {}", signature.isv_prod_id, signature.isv_svn, signature.date)
            }
            (None, error) => format!("WRONG: {}", error.as_deref().unwrap_or("it can't be verified")),
        },
    };
    let mut text = format!(
        "MRENCLAVE  {}\nsignature  {signature}\ndebug      {}\nELRANGE    {} of addresses\nTCSs       {}\nmeasured   {} pages ({}), {} of them zero\nsyscalls   {} sites: {} rewritten, {} left to trap\n\n",
        summary.mrenclave,
        if summary.debug { "yes: the host can read this enclave" } else { "no" },
        bytes(summary.elrange_size),
        summary.tcs_count,
        summary.pages,
        bytes(summary.pages * 4096),
        summary.zero_pages,
        summary.sites.found,
        summary.sites.found - summary.sites.trap,
        summary.sites.trap
    );
    let rows = summary.segments.iter().map(|segment| {
        let zero = if segment.zero { "zeros" } else { "" };
        vec![format!("{:#x}", segment.address), segment.pages.to_string(), segment.rights.clone(), zero.to_owned()]
    });
    text += &table(&["address", "pages", "rights", "content"], rows.collect(), &[1]);
    if !summary.traps.is_empty() {
        let rows = summary.traps.iter().take(MAX_TRAPS).map(|trap| {
            let number = trap.number.map_or_else(|| "-".to_owned(), |number| number.to_string());
            vec![format!("{:#x}", trap.address), trap.symbol.clone(), number, trap.why.clone()]
        });
        text += "\n\nSyscall sites that trap:\n";
        text += &table(&["address", "function", "number", "why"], rows.collect(), &[2]);
        if summary.traps.len() > MAX_TRAPS {
            text += &format!("\nand {} more; --json lists all", summary.traps.len() - MAX_TRAPS);
        }
    }
    crate::output::harmless(&text)
}

fn keygen(path: &Path, output: &Output) -> Result<ExitCode, Failure> {
    if path.exists() {
        return Err(Failure::new(format!("{} exists already; a key is never overwritten, take another name", path.display())));
    }
    let progress = output.progress("looking for primes");
    let key = SigningKey::generate();
    progress.finish_and_clear();
    let key = key?;
    let pem = key.to_pem()?;
    let write = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(pem.as_bytes());
    write().map_err(|source| Error::Io { path: path.display().to_string(), source })?;
    let mrsigner = hex(&key.mrsigner());
    output.result(&json!({ "key": path, "mrsigner": mrsigner }), || format!("{}\nMRSIGNER   {mrsigner}", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn read_key(path: &Path) -> Result<SigningKey, Failure> {
    SigningKey::from_pem(&read_text(path)?).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

fn read_text(path: &Path) -> Result<String, Failure> {
    String::from_utf8(read(path, MAX_TEXT)?).map_err(|_| Failure::new(format!("{} is not text (UTF-8)", path.display())))
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let fail = |source| Error::Io { path: path.display().to_string(), source };
    let length = path.metadata().map_err(fail)?.len();
    if length > limit {
        return Err(Failure::new(format!("{} has {}; at most {} are read", path.display(), bytes(length), bytes(limit))));
    }
    Ok(fs::read(path).map_err(fail)?)
}

/// Today in UTC as `0xYYYYMMDD`; `SOURCE_DATE_EPOCH` stands in for the clock, so that signatures can be made again.
fn today() -> u32 {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok());
    let seconds = given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));
    date(seconds / 86_400)
}

/// A number of days since 1970-01-01 as `0xYYYYMMDD` (the civil calendar, counted in eras of 400 years from a March).
fn date(days: u64) -> u32 {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    // SIGSTRUCT wants the decimal digits as hexadecimal ones.
    u32::from_str_radix(&format!("{year:04}{month:02}{day:02}"), 16).unwrap_or(0)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_decimal_digits_in_hexadecimal() {
        assert_eq!(date(0), 0x1970_0101);
        assert_eq!(date(59), 0x1970_0301);
        assert_eq!(date(11_016), 0x2000_0229);
        assert_eq!(date(20_777), 0x2026_1120);
    }

    #[test]
    fn a_file_beyond_the_limit_is_not_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(100).unwrap();
        assert!(read(file.path(), 99).unwrap_err().message().contains("100 B"));
        assert_eq!(read(file.path(), 100).unwrap().len(), 100);
    }
}
