"""The ways to place queues and TSEs in a shop, compared for one shop."""

from __future__ import annotations

import math

import msgspec

from fiskal.sizing.errors import ImpossibleShop
from fiskal.sizing.plan import Variant, plan, variant
from fiskal.sizing.profiles import PROFILES, Profile
from fiskal.sizing.shop import Shop


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One way, with what a TSE carries there and who stops signing when something dies.

    Without a TSE a checkout goes on selling; its receipts carry no signature until a zero receipt.
    """

    name: str
    where: str
    tse: str
    tses: int
    queues: int
    variant: Variant
    if_tse_fails: str
    if_host_fails: str


def scenarios(shop: Shop, profile: Profile, *, cloud: Profile | None = None, seed: int = 1) -> list[Scenario]:
    """Compare them. ``cloud`` is what a data centre would use, by default a published profile.

    A shared TSE is planned as :func:`fiskal.sizing.plan.plan` does; where that finds no number, with as many as
    there are queues.
    """
    own = msgspec.structs.replace(shop, checkouts_per_queue=1)
    in_cloud = cloud or (profile if profile.cloud else PROFILES["fiskaly"])
    most = own.checkouts
    shared = plan(own, profile, seed=seed)
    k = shared.tses or most
    common_variant = shared.chosen or variant(own, profile, k, seed=seed)
    loss = f"{common_variant.load.checkouts} of {most} without TSE"
    found = [
        Scenario(
            name="TSE per checkout",
            where="queue and SCU on every checkout",
            tse=profile.title,
            tses=most,
            queues=most,
            variant=variant(own, profile, most, seed=seed),
            if_tse_fails="1 without TSE",
            if_host_fails="1 stops",
        ),
        Scenario(
            name="main checkout",
            where="SCU on one checkout, queues on all",
            tse=profile.title,
            tses=k,
            queues=most,
            variant=common_variant,
            if_tse_fails=loss,
            if_host_fails="all without TSE",
        ),
        Scenario(
            name="TSE at the server",
            where="SCU on a server, queues on the checkouts",
            tse=profile.title,
            tses=k,
            queues=most,
            variant=common_variant,
            if_tse_fails=loss,
            if_host_fails="all without TSE",
        ),
        Scenario(
            name="terminals, a queue each",
            where="queues and SCU on a server",
            tse=profile.title,
            tses=k,
            queues=most,
            variant=common_variant,
            if_tse_fails=loss,
            if_host_fails="all stop",
        ),
        Scenario(
            name="terminals, one queue",
            where="one queue and SCU on a server",
            tse=profile.title,
            tses=1,
            queues=1,
            variant=variant(msgspec.structs.replace(shop, checkouts_per_queue=most), profile, 1, seed=seed),
            if_tse_fails="all without TSE",
            if_host_fails="all stop",
        ),
    ]
    try:
        centre = plan(own, in_cloud, seed=seed)
    except ImpossibleShop:
        return found
    chosen = centre.chosen or centre.variants[-1]
    found.append(
        Scenario(
            name="data centre",
            where="queues and SCU in a data centre",
            tse=in_cloud.title,
            tses=chosen.tses,
            queues=most,
            variant=chosen,
            if_tse_fails=f"{math.ceil(most / chosen.tses)} of {most} without TSE",
            if_host_fails="all stop; so without the line",
        )
    )
    return found
