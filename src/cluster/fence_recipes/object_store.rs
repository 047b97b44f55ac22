use lockword::cluster::fence::{CheckError, compare};
use lockword::cluster::{FencingToken, Key};
use object_store::{
    Attribute, Attributes, Error, GetOptions, ObjectStore, PutMode, PutOptions, UpdateVersion,
    path::Path,
};

/// Replaces the object at `path`, whose metadata has the token of its last writer. The store refuses
/// the put if the object has changed since it was looked at.
pub async fn put(
    store: &impl ObjectStore,
    path: &Path,
    key: &Key,
    token: FencingToken,
    value: &str,
) -> Result<(), CheckError<Error>> {
    let fence = Attribute::Metadata("fence".into());
    loop {
        let head = GetOptions { head: true, ..GetOptions::default() };
        let mode = match store.get_opts(path, head).await {
            Ok(found) => {
                let stored = found.attributes.get(&fence).map(|text| text.parse()).transpose();
                // Not a token: somebody else writes this metadata.
                let no_token = |_| CheckError::NotStored { key: key.clone(), found: None };
                let stored = stored.map_err(no_token)?.map(FencingToken::from_u64);
                compare(key, token, stored).map_err(CheckError::Stale)?;
                let (e_tag, version) = (found.meta.e_tag, found.meta.version);
                PutMode::Update(UpdateVersion { e_tag, version })
            }
            Err(Error::NotFound { .. }) => PutMode::Create,
            Err(error) => return Err(CheckError::Resource(error)),
        };
        let attributes = Attributes::from_iter([(fence.clone(), token.to_string())]);
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        match store.put_opts(path, value.to_owned().into(), options).await {
            Ok(_) => return Ok(()),
            // Another writer was faster: look again.
            Err(Error::Precondition { .. } | Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(CheckError::Resource(error)),
        }
    }
}
