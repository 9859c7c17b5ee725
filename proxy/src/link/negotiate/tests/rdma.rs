//! Two that can go over RDMA.

use super::*;

#[test]
fn hosts_that_share_no_memory_go_over_rdma_where_both_have_it() {
    let mut pair = Pair::new(should(), should());
    pair.both().into_iter().for_each(|end| end.rdma = true);
    pair.acceptor.rings = Rings::new(1 << 22, Some("that host".into()), pair.now);
    let peer = pair.acceptor.negotiation.peer.clone();
    pair.acceptor.negotiation =
        Negotiation::new(Side::Acceptor, peer, pair.acceptor.rings.clone(), || [7; 16], pair.now);
    for _ in 0..3 {
        pair.second(1 << 20);
    }
    let asked: Vec<_> = pair.opener.offers().iter().map(|offer| offer.wire.clone()).collect();
    assert_eq!(asked, ["shm", "rdma"]);
    assert!(pair.both().into_iter().all(|end| end.is_on_wire() && end.negotiation.wire() == LinkWire::Rdma));
    // Its device goes: back to TCP, and again where there is another.
    pair.opener.negotiation.lease().unwrap().is_of("mlx5_0");
    pair.opener.rings.lost("mlx5_0");
    pair.second(1 << 20);
    assert!(pair.opener.done.contains(&Action::Freeze(1, Cause::Fault)), "{:?}", pair.opener.done);
    assert_eq!(pair.opener.negotiation.times(LinkWire::Rdma), 1);
    for _ in 0..4 {
        pair.second(1 << 20);
    }
    assert!(pair.both().into_iter().all(|end| end.is_on_wire()), "{:?}", pair.opener.done);
}

#[test]
fn a_policy_against_rdma_and_a_side_without_a_device_stay_on_tcp() {
    for (rdma, policy, cause) in
        [(true, WireUse::MustNot, Refusal::Policy), (false, WireUse::Should, Refusal::Unavailable)]
    {
        let over_rdma = |rdma| LinkPolicy { shm: WireUse::MustNot, rdma, ..LinkPolicy::default() };
        let mut pair = Pair::new(over_rdma(WireUse::Should), over_rdma(policy));
        (pair.opener.rdma, pair.acceptor.rdma) = (true, rdma);
        for _ in 0..3 {
            pair.second(1 << 20);
        }
        assert_eq!(pair.opener.offers().len(), 1, "it is not asked again and again");
        assert_eq!(pair.acceptor.declined(), Some(cause));
    }
}
