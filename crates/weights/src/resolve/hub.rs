//! Models from the hub, kept in the cache that all of its clients on a machine share.

use std::{
    fs,
    net::{TcpStream, ToSocketAddrs},
    path::{Path, PathBuf},
    time::Duration,
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{Api, ApiBuilder, ApiError, Metadata},
};

use super::{Progress, name::ModelName, place};
use crate::{Error, huggingface};

const ENDPOINT_DEFAULT: &str = "https://huggingface.co";
const REVISION_DEFAULT: &str = "main";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a download that broke off is taken up again.
const RESUMES_MAX: usize = 3;
/// What a model folder needs besides its weights, as far as the repository has it.
const FOLDER_FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
];
/// GGUF files that an error lists.
const CHOICES_MAX: usize = 12;

/// Where the hub is, and how to use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubSettings {
    /// Its address.
    pub endpoint: String,
    /// The cache of files from the hub.
    pub cache_dir: PathBuf,
    /// Proves who is asking.
    pub token: Option<String>,
    /// Use only what is on this machine.
    pub offline: bool,
    /// Connections go through a proxy, so that the endpoint itself may be out of reach.
    pub proxied: bool,
}

impl HubSettings {
    /// The settings that the hub's other clients would read from these environment variables: `HF_ENDPOINT`,
    /// `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`.
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let home = variable("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let cache = variable("XDG_CACHE_HOME").map(PathBuf::from).unwrap_or_else(|| {
                PathBuf::from(variable("HOME").unwrap_or_else(|| ".".to_owned())).join(".cache")
            });
            cache.join("huggingface")
        });
        let token_path =
            variable("HF_TOKEN_PATH").map(PathBuf::from).unwrap_or_else(|| home.join("token"));
        let token = variable("HF_TOKEN").or_else(|| fs::read_to_string(token_path).ok());
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT_DEFAULT.to_owned());
        let is_true = |value: String| {
            matches!(value.trim().to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on")
        };
        let proxies =
            ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache_dir: variable("HF_HUB_CACHE").map(PathBuf::from).unwrap_or(home.join("hub")),
            token,
            offline: variable("HF_HUB_OFFLINE").is_some_and(is_true),
            proxied: proxies.into_iter().any(|name| variable(name).is_some()),
        }
    }
}

/// The hub, ready to be asked.
pub(super) struct Hub<'a> {
    settings: &'a HubSettings,
    locks_dir: &'a Path,
    cache: Cache,
    api: Api,
}

impl<'a> Hub<'a> {
    pub(super) fn new(settings: &'a HubSettings, locks_dir: &'a Path) -> Result<Self, Error> {
        let cache = Cache::new(settings.cache_dir.clone());
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(settings.endpoint.clone())
            .with_token(settings.token.clone())
            .with_user_agent("brigade", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| failed(&settings.endpoint, &error))?;
        Ok(Self { settings, locks_dir, cache, api })
    }

    /// A model: a folder, or the GGUF file that is named or the only one.
    pub(super) fn fetch(
        &self,
        name: &ModelName,
        progress: &dyn Progress,
    ) -> Result<PathBuf, Error> {
        let revision = name.revision.as_deref().unwrap_or(REVISION_DEFAULT);
        let repo = repo(&name.repository, revision);
        let cached = || match &name.file {
            Some(file) => self.cached(&repo, file),
            None => self.cached_model(&repo),
        };
        if let Some(path) = cached() {
            return Ok(path);
        }
        self.check_online(&name.to_string())?;
        let _lock = place::lock(self.locks_dir, &name.repository)?;
        if let Some(path) = cached() {
            return Ok(path);
        }
        match &name.file {
            Some(file) => self.download(&repo, file, None, progress),
            None => self.download_model(&name.repository, &repo, progress),
        }
    }

    /// One exact file. A file with another checksum is refused, where possible before it is downloaded.
    pub(super) fn fetch_checked(
        &self,
        (repository, revision): (&str, &str),
        file: &str,
        sha256: &str,
        progress: &dyn Progress,
    ) -> Result<PathBuf, Error> {
        let repo = repo(repository, revision);
        if let Some(path) = self.cached(&repo, file) {
            // Blobs are called by their checksum, and were checked when they came.
            if !is_blob(&path, sha256) {
                place::check_file(&path, sha256)?;
            }
            return Ok(path);
        }
        self.check_online(file)?;
        let _lock = place::lock(self.locks_dir, repository)?;
        self.download(&repo, file, Some(sha256), progress)
    }

    fn check_online(&self, what: &str) -> Result<(), Error> {
        if self.settings.offline {
            return Err(offline(what));
        }
        if self.settings.proxied {
            return Ok(());
        }
        // The client itself would wait for minutes where packets vanish.
        reachable(&self.settings.endpoint)
            .map_err(|problem| Error::Download { what: what.to_owned(), problem })
    }

    /// Downloads all that a model needs, of one revision.
    fn download_model(
        &self,
        repository: &str,
        named: &Repo,
        progress: &dyn Progress,
    ) -> Result<PathBuf, Error> {
        let bad = |problem: String| Error::Download { what: repository.to_owned(), problem };
        let info =
            self.api.repo(named.clone()).info().map_err(|error| failed(repository, &error))?;
        let files: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
        // From here on by commit, so that a push in the meantime does not mix two models.
        let pinned = repo(repository, &info.sha);
        let get = |file: &str| self.download(&pinned, file, None, progress);
        let path = if files.contains(&"config.json")
            && let Some(whole) =
                [huggingface::WHOLE, huggingface::INDEX].into_iter().find(|f| files.contains(f))
        {
            let mut dir = PathBuf::new();
            for file in FOLDER_FILES.into_iter().filter(|file| files.contains(file)) {
                dir = parent(&get(file)?);
            }
            let path = get(whole)?;
            if whole == huggingface::INDEX {
                for shard in huggingface::shard_names(&path)? {
                    get(&shard)?;
                }
            }
            dir
        } else {
            let mut ggufs: Vec<&str> = files.into_iter().filter(|f| f.ends_with(".gguf")).collect();
            match ggufs[..] {
                [] => return Err(bad("it has neither safetensors nor GGUF files".to_owned())),
                [file] => get(file)?,
                _ => {
                    let count = ggufs.len();
                    ggufs.truncate(CHOICES_MAX);
                    return Err(bad(format!(
                        "it has {count} GGUF files; name one as {repository}:FILE ({})",
                        ggufs.join(", ")
                    )));
                }
            }
        };
        // Only now does the name lead to these files.
        let cached = self.cache.repo(named.clone());
        cached.create_ref(&info.sha).map_err(|error| failed(repository, &error.into()))?;
        Ok(path)
    }

    /// Downloads one file into the cache and checks it.
    fn download(
        &self,
        repo: &Repo,
        file: &str,
        sha256: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<PathBuf, Error> {
        if let Some(path) = self.cached(repo, file)
            && sha256.is_none_or(|sha256| is_blob(&path, sha256))
        {
            return Ok(path);
        }
        let handle = self.api.repo(repo.clone());
        let metadata =
            self.api.metadata(&handle.url(file)).map_err(|error| failed(file, &error))?;
        if let Some(expected) = sha256
            && is_sha256(metadata.etag())
            && metadata.etag() != expected
        {
            let (expected, found) = (expected.to_owned(), metadata.etag().to_owned());
            return Err(Error::Checksum { what: file.to_owned(), expected, found });
        }
        let mut resumes = 0;
        let path = loop {
            match handle.download_with_progress(file, Watched { progress, begun: false }) {
                Ok(path) => break path,
                Err(error) if resumes < RESUMES_MAX && broke_off(&error) => resumes += 1,
                Err(error) => return Err(failed(file, &error)),
            }
        };
        let checked = check(&path, file, &metadata, sha256);
        if checked.is_err() {
            // What is wrong must not be found in the cache next time. Where it cannot be removed, the error says
            // enough already.
            let _ = path.canonicalize().and_then(fs::remove_file);
            let _ = fs::remove_file(&path);
        }
        checked.map(|()| path)
    }

    fn cached(&self, repo: &Repo, file: &str) -> Option<PathBuf> {
        let path = self.snapshot(repo)?.join(file);
        path.is_file().then_some(path)
    }

    /// A folder with all it needs, or the only GGUF file.
    fn cached_model(&self, repo: &Repo) -> Option<PathBuf> {
        let dir = self.snapshot(repo)?;
        let has = |file: &str| dir.join(file).is_file();
        if has("config.json") && has("tokenizer.json") {
            let shards = huggingface::shard_names(&dir.join(huggingface::INDEX));
            if has(huggingface::WHOLE) || shards.is_ok_and(|shards| shards.iter().all(|s| has(s))) {
                return Some(dir);
            }
        }
        let files = fs::read_dir(&dir).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        let is_gguf = |path: &PathBuf| path.extension().is_some_and(|e| e == "gguf");
        let ggufs: Vec<PathBuf> = files.filter(|path| is_gguf(path) && path.is_file()).collect();
        match &ggufs[..] {
            [file] => Some(file.clone()),
            _ => None,
        }
    }

    /// The folder of a revision: by branch or tag, or by commit.
    fn snapshot(&self, repo: &Repo) -> Option<PathBuf> {
        let root = self.settings.cache_dir.join(repo.folder_name());
        let commit = fs::read_to_string(root.join("refs").join(repo.revision()));
        let commit = commit.map(|commit| commit.trim().to_owned());
        let commit = commit.unwrap_or_else(|_| repo.revision().to_owned());
        let dir = root.join("snapshots").join(commit);
        dir.is_dir().then_some(dir)
    }
}

fn repo(repository: &str, revision: &str) -> Repo {
    Repo::with_revision(repository.to_owned(), RepoType::Model, revision.to_owned())
}

fn parent(path: &Path) -> PathBuf {
    path.parent().map(Path::to_owned).unwrap_or_default()
}

/// Checks a file that was downloaded against what the hub and the caller say of it.
fn check(path: &Path, file: &str, metadata: &Metadata, sha256: Option<&str>) -> Result<(), Error> {
    let bad = |problem| Error::Download { what: file.to_owned(), problem };
    let len = fs::metadata(path).map_err(|error| bad(error.to_string()))?.len();
    if len != metadata.size() as u64 {
        return Err(bad(format!("{len} bytes arrived of {}", metadata.size())));
    }
    // Large files are called by their checksum, small ones by git's, which is another.
    match sha256.or_else(|| Some(metadata.etag()).filter(|etag| is_sha256(etag))) {
        Some(sha256) => place::check_file(path, sha256),
        None => Ok(()),
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a file of the cache is the blob with this checksum.
fn is_blob(path: &Path, sha256: &str) -> bool {
    path.canonicalize().is_ok_and(|path| path.file_name().is_some_and(|name| name == sha256))
}

pub(super) fn offline(what: &str) -> Error {
    let problem = "it is not cached, and fetching is switched off (offline mode)".to_owned();
    Error::Download { what: what.to_owned(), problem }
}

/// Whether a connection to the endpoint can be made at all.
fn reachable(endpoint: &str) -> Result<(), String> {
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("https", endpoint));
    let authority = rest.split('/').next().unwrap_or_default();
    let port = if scheme == "http" { 80 } else { 443 };
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port { authority.to_owned() } else { format!("{authority}:{port}") };
    let addresses = address.to_socket_addrs().map_err(|e| format!("cannot find {address}: {e}"))?;
    let mut problem = format!("{address} has no address");
    for socket_address in addresses {
        match TcpStream::connect_timeout(&socket_address, CONNECT_TIMEOUT) {
            Ok(_) => return Ok(()),
            Err(error) => problem = format!("cannot connect to {address}: {error}"),
        }
    }
    Err(problem)
}

/// Whether a download ended early in a way that going on from there may mend.
fn broke_off(error: &ApiError) -> bool {
    match error {
        ApiError::IoError(_) => true,
        ApiError::RequestError(error) => !matches!(**error, ureq::Error::StatusCode(_)),
        _ => false,
    }
}

fn failed(what: &str, error: &ApiError) -> Error {
    let status = match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        _ => None,
    };
    let problem = match status {
        Some(404) => "the hub does not have it".to_owned(),
        // The hub says this of what does not exist, too.
        Some(401 | 403) => {
            "the hub denies access, or does not have it; HF_TOKEN may help".to_owned()
        }
        Some(status) => format!("the hub answered with status {status}"),
        None => error.to_string(),
    };
    Error::Download { what: what.to_owned(), problem }
}

/// Passes on the progress of one download.
struct Watched<'a> {
    progress: &'a dyn Progress,
    begun: bool,
}

impl hf_hub::api::Progress for Watched<'_> {
    fn init(&mut self, size: usize, filename: &str) {
        // The client says this once more when it resumes.
        if !self.begun {
            self.begun = true;
            self.progress.begin(filename, Some(size as u64));
        }
    }

    fn update(&mut self, size: usize) {
        self.progress.advance(size as u64);
    }

    fn finish(&mut self) {}
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        if self.begun {
            self.progress.end();
        }
    }
}
