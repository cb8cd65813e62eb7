//! From what a client uploads to what the engines run: a source, a module, or a zip archive of either.
//!
//! An archive is hostile: names, counts and sizes are bounded before and while it is unpacked, and nothing of it touches a file system.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Most files of an archive.
pub const MAX_FILES: usize = 4096;
/// Most bytes of an archive, unpacked.
pub const MAX_UNPACKED: u64 = 48 << 20;
/// Longest name of a file in it.
const MAX_PATH: usize = 512;

/// Code as an engine takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// One script, in which the engine finds `__teemate_entry`.
    Script(String),
    /// A WASI module.
    Module(Vec<u8>),
}

/// The function that the engine calls in a script.
pub const ENTRY: &str = "__teemate_entry";

/// Makes one script of a source.
pub fn script(source: &str, main: Option<&str>) -> String {
    // The source stays first, so that its lines have their numbers and its "use strict" counts.
    let source = match source.strip_prefix("#!") {
        Some(rest) => format!("//{rest}"),
        None => source.to_owned(),
    };
    source + &entry(main.unwrap_or("main"))
}

fn entry(main: &str) -> String {
    include_str!("entry.js").replacen("$MAIN", &quoted(main), 1)
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Makes one script of an archive of JavaScript files.
///
/// # Errors
/// What is wrong with the archive.
pub fn script_of_archive(archive: &[u8], main: Option<&str>) -> Result<String, String> {
    let is_code = |path: &str| path.ends_with(".js") || path.ends_with(".cjs") || path.ends_with(".json");
    let all = unpack(archive, |_| true)?;
    let (files, data): (BTreeMap<_, _>, BTreeMap<_, _>) = all.into_iter().partition(|(path, _)| is_code(path));
    let (entry_file, main) = entry_of(&files, main)?;
    let size: usize = files.values().map(Vec::len).sum::<usize>() + data.values().map(Vec::len).sum::<usize>() * 4 / 3;
    let mut source = String::with_capacity(size + 4096);
    source.push_str("const data = Object.assign(Object.create(null), {\n");
    for (path, content) in &data {
        source.push_str(&quoted(path));
        source.push_str(": \"");
        STANDARD.encode_string(content, &mut source);
        source.push_str("\",\n");
    }
    source.push_str("});\nconst files = Object.assign(Object.create(null), {\n");
    for (path, content) in &files {
        let text = std::str::from_utf8(content).map_err(|_| format!("'{path}' in the archive is not UTF-8"))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        source.push_str(&quoted(path));
        if path.ends_with(".json") {
            source.push_str(": ");
            source.push_str(&quoted(text));
        } else {
            source.push_str(": function (exports, require, module, __filename, __dirname) {\n");
            source.push_str(text.strip_prefix("#!").map_or("", |_| "//"));
            source.push_str(text);
            source.push_str("\n}");
        }
        source.push_str(",\n");
    }
    source.push_str("});\n");
    let entry_file = entry_file.map_or_else(|| "null".to_owned(), |path| quoted(&path));
    source.push_str(&include_str!("bundle.js").replacen("$ENTRY", &entry_file, 1));
    // Not at the top of the script: a name of an owner's global may be `files`.
    Ok(format!("(() => {{\n{source}}})();\n{}", entry(&main)))
}

/// The file to load, if `main` names one, and the function in it.
fn entry_of(files: &BTreeMap<String, Vec<u8>>, main: Option<&str>) -> Result<(Option<String>, String), String> {
    let main = main.unwrap_or("main");
    if let Some((file, function)) = main.split_once('.')
        && files.contains_key(&format!("{file}.js"))
    {
        return Ok((Some(format!("{file}.js")), function.to_owned()));
    }
    let named = files.get("package.json").and_then(|text| serde_json::from_slice::<serde_json::Value>(text).ok());
    let named = named.as_ref().and_then(|package| package.get("main")?.as_str());
    if named.is_none() && !files.contains_key("index.js") && !files.contains_key("index.cjs") {
        return Err("Zipped actions must contain either package.json or index.js at the root.".to_owned());
    }
    Ok((None, main.to_owned()))
}

/// The module in an archive: `main.wasm`.
///
/// # Errors
/// What is wrong with the archive.
pub fn module_of_archive(archive: &[u8]) -> Result<Vec<u8>, String> {
    unpack(archive, |path| path == "main.wasm")?
        .remove("main.wasm")
        .ok_or_else(|| "Zipped WebAssembly actions must contain main.wasm at the root.".to_owned())
}

/// Whether these bytes begin as an archive does.
pub fn is_archive(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06")
}

/// The wanted files of an archive.
///
/// # Errors
/// What is wrong with it.
pub fn unpack(archive: &[u8], wanted: impl Fn(&str) -> bool) -> Result<BTreeMap<String, Vec<u8>>, String> {
    unpack_within(archive, wanted, MAX_UNPACKED)
}

fn unpack_within(archive: &[u8], wanted: impl Fn(&str) -> bool, most: u64) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let broken = |error: zip::result::ZipError| format!("the archive cannot be read: {error}");
    let mut archive = zip::ZipArchive::new(Cursor::new(archive)).map_err(broken)?;
    if archive.len() > MAX_FILES {
        return Err(format!("the archive has {} files; it may have {MAX_FILES}", archive.len()));
    }
    let mut files = BTreeMap::new();
    let mut left = most;
    for index in 0..archive.len() {
        let file = archive.by_index(index).map_err(broken)?;
        let name = file.name().map_err(broken)?;
        let Some(path) = straight(&name) else {
            return Err(format!("the archive has a file with a name that does not do: {:?}", shorten(&name)));
        };
        drop(name);
        if !file.is_file() || !wanted(&path) {
            continue;
        }
        // What the archive says of the size is not believed: no more than what is left is read.
        let mut content = Vec::new();
        file.take(left + 1).read_to_end(&mut content).map_err(|error| format!("'{path}' in the archive cannot be unpacked: {error}"))?;
        left =
            left.checked_sub(content.len() as u64).ok_or_else(|| format!("the archive has more than {most} bytes when it is unpacked"))?;
        files.insert(path, content);
    }
    Ok(files)
}

/// A path in an archive without `.`; `None` when it leads out of it.
fn straight(path: &str) -> Option<String> {
    if path.is_empty() || path.len() > MAX_PATH || path.starts_with('/') || path.contains(['\\', '\0']) {
        return None;
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    (!parts.contains(&"..")).then(|| parts.join("/"))
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use super::*;

    /// An archive of these files.
    pub fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (path, content) in files {
            writer.start_file(*path, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    #[test]
    fn the_entry_is_where_node_looks() {
        let index: (&str, &[u8]) = ("index.js", b"exports.main = () => ({})");
        let script = script_of_archive(&archive(&[index]), None).unwrap();
        assert!(script.contains("const entry = null;") && script.contains(r#"const name = "main";"#));
        // `file.function` where there is such a file, else a path within the exports.
        let lib: (&str, &[u8]) = ("lib.js", b"");
        let script = script_of_archive(&archive(&[index, lib]), Some("lib.run.it")).unwrap();
        assert!(script.contains(r#"const entry = "lib.js";"#) && script.contains(r#"const name = "run.it";"#));
        let script = script_of_archive(&archive(&[index]), Some("lib.run")).unwrap();
        assert!(script.contains("const entry = null;") && script.contains(r#"const name = "lib.run";"#));
        let none = script_of_archive(&archive(&[lib]), None).unwrap_err();
        assert_eq!(none, "Zipped actions must contain either package.json or index.js at the root.");
        script_of_archive(&archive(&[("package.json", br#"{"main":"lib.js"}"#), lib]), None).unwrap();
    }

    #[test]
    fn other_files_are_carried_along() {
        let index: (&str, &[u8]) = ("index.js", b"exports.main = () => ({})");
        let script = script_of_archive(&archive(&[index, ("data/a.bin", &[0, 255, 10])]), None).unwrap();
        assert!(script.contains(r#""data/a.bin": "AP8K""#), "{script}");
        assert!(!script.contains(r#""index.js": ""#));
    }

    #[test]
    fn a_name_cannot_break_out_of_its_quotes() {
        let source = script("", Some("a\"; evil(); \"\u{2028}"));
        assert!(source.contains(r#"const name = "a\"; evil(); \""#), "{source}");
    }

    #[test]
    fn the_module_is_main_wasm() {
        assert_eq!(module_of_archive(&archive(&[("main.wasm", b"\0asm"), ("other", b"x")])).unwrap(), b"\0asm");
        assert!(module_of_archive(&archive(&[("a/main.wasm", b"\0asm")])).is_err());
    }

    #[test]
    fn what_is_too_large_is_not_unpacked() {
        let zeros = vec![0; 100_000];
        let bomb = archive(&[("a.js", &zeros), ("b.js", &zeros), ("c.js", &zeros)]);
        assert!(bomb.len() < 2000);
        assert!(unpack_within(&bomb, |_| true, 299_999).unwrap_err().contains("more than 299999 bytes when it is unpacked"));
        assert_eq!(unpack_within(&bomb, |_| true, 300_000).unwrap().len(), 3);
        // What nobody wants costs nothing.
        assert!(unpack(&bomb, |_| false).unwrap().is_empty());
        let names: Vec<String> = (0..=MAX_FILES).map(|n| n.to_string()).collect();
        let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
        assert!(unpack(&archive(&many), |_| true).unwrap_err().contains("files"));
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in ["../a.js", "/a.js", "a/../../b.js", "a\\b.js"] {
            assert!(unpack(&archive(&[(name, b"")]), |_| true).is_err(), "{name}");
        }
        assert!(unpack(&archive(&[("./a//b.js", b"")]), |_| true).unwrap().contains_key("a/b.js"));
        for bad in [&b""[..], b"PK", b"PK\x03\x04 and then nothing"] {
            unpack(bad, |_| true).unwrap_err();
        }
    }

    #[test]
    fn lying_sizes_are_found_out() {
        let mut bytes = archive(&[("a.js", &[b'x'; 1000])]);
        // The uncompressed size in the central directory.
        let at = bytes.windows(4).position(|four| four == b"PK\x01\x02").unwrap() + 24;
        bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        match unpack(&bytes, |_| true) {
            Ok(files) => assert_eq!(files["a.js"].len(), 1000),
            Err(error) => assert!(!error.is_empty()),
        }
    }
}
