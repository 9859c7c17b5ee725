//! Whatever an xDS server sends, it is taken or refused with a reason, and what is taken can be run by.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lighter_config::snapshot::is_virtual;
use lighter_config::xds::Kind;
use lighter_config::xds::decode::{self, Resource};

fuzz_target!(|data: &[u8]| {
    let Some((choice, message)) = data.split_first() else { return };
    let kind = Kind::ALL[usize::from(*choice) % Kind::ALL.len()];
    let resource = match decode::resource(kind, message) {
        Ok(resource) => resource,
        Err(nack) => return assert!(!nack.message.is_empty()),
    };
    assert!(!resource.name().is_empty());
    resource.needs(true);
    if let Resource::Endpoints(assignment) = &resource {
        for endpoint in &assignment.endpoints {
            assert!(endpoint.weight > 0 && endpoint.address.port() > 0 && !is_virtual(endpoint.address.ip()));
        }
        assert!(assignment.endpoints.is_sorted_by_key(|endpoint| endpoint.priority));
    }
    if let Resource::Route(routes) = &resource {
        for route in routes.hosts.iter().flat_map(|host| &host.table.routes) {
            let sum: u64 = route.backends.iter().map(|backend| u64::from(backend.weight)).sum();
            assert!(u32::try_from(sum).is_ok() && (sum > 0 || route.backends.is_empty()));
        }
    }
    let again = decode::resource(kind, message);
    assert_eq!(again.as_ref(), Ok(&resource), "equal bytes say the same");
    assert_eq!(decode::assemble([&resource]).version, decode::assemble(again.iter()).version);
});
