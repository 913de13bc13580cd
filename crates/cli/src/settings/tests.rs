//! Sources, their order, and errors that name what is wrong.

use clap::Command;

use super::*;

fn gather(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Settings> {
    let command = add_flags(
        Command::new("brigade").no_binary_name(true),
        &["model", "server", "engine", "log"],
    );
    let matches = command.try_get_matches_from(arguments)?;
    Settings::gather(&matches, |name| {
        variables.iter().find(|(other, _)| *other == name).map(|(_, text)| (*text).to_owned())
    })
}

fn error(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    format!("{:#}", gather(arguments, variables).err().expect("an error is expected"))
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("settings.toml");
    std::fs::write(&path, "[server]\nport = 1\nhost = \"0.0.0.0\"\n[engine]\nrunning_max = 3\n")
        .unwrap();
    let path = path.to_str().unwrap();
    let variables = [("BRIGADE_PORT", "2"), ("BRIGADE_CONFIG", path), ("BRIGADE_RUNNING_MAX", "4")];
    let settings = gather(&["--port", "5"], &variables).unwrap();
    assert_eq!(settings.count("server.port"), 5);
    assert_eq!(settings.count("engine.running_max"), 4);
    assert_eq!(settings.text("server.host"), Some("0.0.0.0"));
    assert_eq!(settings.count("engine.waiting_max"), 1024);
    let origins: BTreeMap<_, _> =
        settings.iter().map(|(key, _, origin)| (key, origin.to_string())).collect();
    assert_eq!(origins["server.port"], "--port");
    assert_eq!(origins["engine.running_max"], "$BRIGADE_RUNNING_MAX");
    assert_eq!(origins["server.host"], path);
    assert_eq!(origins["engine.waiting_max"], "default");
}

#[test]
fn command_lines_of_other_servers_carry_over() {
    let vllm = [
        "--served-model-name",
        "a",
        "b",
        "--max-model-len",
        "100",
        "--max-num-seqs",
        "7",
        "--max-num-batched-tokens",
        "64",
        "--gpu-memory-utilization",
        "0.3",
        "--api-key",
        "k",
        "--tensor-parallel-size",
        "1",
        "--enable-prefix-caching",
        "--shutdown-timeout",
        "9",
    ];
    let settings = gather(&vllm, &[]).unwrap();
    assert_eq!(settings.list("model.served_model_name"), ["a", "b"]);
    assert_eq!(settings.integer("engine.context_max"), Some(100));
    assert_eq!(settings.count("engine.running_max"), 7);
    assert_eq!(settings.number("engine.gpu_memory_fraction"), 0.3);
    assert_eq!(settings.number("server.drain_timeout_s"), 9.0);
    let settings = gather(
        &["--model-id", "m", "--max-total-tokens", "50", "--num-shard", "1"],
        &[("MAX_CONCURRENT_REQUESTS", "12"), ("PORT", "81")],
    );
    let settings = settings.unwrap();
    assert_eq!(settings.text("model.model"), Some("m"));
    assert_eq!(settings.count("server.requests_max"), 12);
    assert_eq!(settings.count("server.port"), 81);
    assert!(error(&["--tensor-parallel-size", "2"], &[]).contains("tensor parallelism"));
}

#[test]
fn errors_name_the_setting_its_value_and_its_source() {
    let message = error(&[], &[("BRIGADE_PORT", "65536")]);
    for part in ["server.port", "65536", "$BRIGADE_PORT", "0 to 65535"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(error(&["--kv-cache-bytes", "lots"], &[]).contains("engine.kv_cache_bytes"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("settings.toml");
    std::fs::write(&path, "[server]\nprot = 1\n").unwrap();
    let message = error(&["--config", path.to_str().unwrap()], &[]);
    assert!(message.contains("server.prot"), "{message}");
}

#[test]
fn sizes_have_units() {
    for (text, bytes) in
        [("1024", 1024), ("8MiB", 8 << 20), ("1.5 GB", 1_500_000_000), ("2G", 2 << 30)]
    {
        assert_eq!(Value::parse(table::Kind::Bytes(1), text).unwrap(), Value::Integer(bytes));
    }
    assert!(Value::parse(table::Kind::Bytes(0), "-1").is_err());
    // Where nothing is a size of its own, and where it is not.
    assert_eq!(Value::parse(table::Kind::Bytes(0), "0").unwrap(), Value::Integer(0));
    assert!(Value::parse(table::Kind::Bytes(1), "0").is_err());
}

#[test]
fn defaults_are_values_and_names_are_unique() {
    let mut names: Vec<String> = Vec::new();
    for setting in SETTINGS {
        if !setting.default.is_empty() {
            Value::parse(setting.kind, setting.default).unwrap();
        }
        names.push(setting.flag());
        names.extend(setting.flag_aliases.iter().map(|&flag| flag.to_owned()));
    }
    names.extend(table::COMPATIBLE.iter().map(|compatible| compatible.flag.to_owned()));
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn the_reference_page_is_true() {
    let page = include_str!("../../../../docs/reference/settings.md");
    assert!(page == reference_page(), "run: brigade config reference > docs/reference/settings.md");
}

#[test]
fn instruction_sets_that_can_be_chosen_exist_somewhere() {
    use device::cpu::{ParseRungError, Rung};

    let setting = SETTINGS.iter().find(|setting| setting.key == "engine.isa").unwrap();
    let table::Kind::Choice(names) = setting.kind else { panic!("the setting is a choice") };
    for name in names.iter().filter(|&&name| name != "auto") {
        let parsed = name.parse::<Rung>();
        assert!(!matches!(parsed, Err(ParseRungError::Unknown(_))), "{name}: {parsed:?}");
    }
    for rung in Rung::ALL {
        assert!(names.contains(&rung.to_string().as_str()), "{rung} can be chosen");
    }
}
