//! The Hugging Face hub: a repository's list of files, and its files one by one into the hub's cache.

use super::answer::{self, ListedFile, Listing};
use super::download::Download;
use super::http::Client;
use super::layout::HubCache;
use super::name::HubName;
use super::transfer::{Failure, OnTransfer, watched};
use std::path::PathBuf;
use std::sync::Arc;

/// A connection to the hub.
pub(super) struct Hub {
    client: Arc<Client>,
    cache: HubCache,
}

impl Hub {
    /// The hub that the environment names; connects to nothing yet.
    pub fn new(cache: HubCache) -> Result<Self, Failure> {
        Ok(Self { client: Client::from_env()?.into(), cache })
    }

    /// Where the hub is.
    pub fn endpoint(&self) -> &str {
        self.client.endpoint()
    }

    /// The repository's commit and files.
    pub fn listing(&self, name: &HubName, on: OnTransfer) -> Result<Listing, Failure> {
        let parts = ["api", name.repo_type.plural()].into_iter().chain(name.repository.split('/'));
        let mut url = self.client.url(parts.chain(["revision", name.revision()]));
        url.set_query(Some("blobs=true")); // with sizes
        let client = self.client.clone();
        let text = watched("the list of files", on, move |_| client.text(url))?;
        let listing = Listing::parse(&text).map_err(Failure::Odd)?;
        match answer::commit(name.revision()) {
            Some(asked) if asked != listing.commit => {
                Err(Failure::Odd(format!("gives the commit {} for {asked}", listing.commit)))
            }
            _ => Ok(listing),
        }
    }

    /// The folder of the commit in the cache.
    pub fn snapshot(&self, name: &HubName, commit: &str) -> PathBuf {
        self.cache.repository(name).snapshot(commit)
    }

    /// Notes in the cache that the revision asked for is this commit.
    pub fn refer(&self, name: &HubName, commit: &str) -> Result<(), Failure> {
        Ok(self.cache.repository(name).refer(name.revision(), commit)?)
    }

    /// One file of the commit, as it lies in the cache or downloaded; a download that broke off goes on where it stopped.
    pub fn file(
        &self,
        name: &HubName,
        commit: &str,
        file: &ListedFile,
        on: OnTransfer,
    ) -> Result<PathBuf, Failure> {
        let repository = self.cache.repository(name);
        let place = repository.snapshot(commit).join(&file.name);
        if place.exists() {
            return Ok(place);
        }
        let download = Download {
            client: self.client.clone(),
            repository,
            name: name.clone(),
            commit: commit.into(),
            file: file.clone(),
        };
        watched(&file.name, on, move |progress| download.run(progress))
    }
}
