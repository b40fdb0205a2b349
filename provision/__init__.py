"""Putting swarmbus onto a host, and taking it off again.

The way of the data, each arrow one function, and only the last of them touches anything::

    facts   = host.gather(system, ...)            what is there          (read only)
    spec    = spec.merge(request, ...)            what the operator wants
    wish    = desired.desired(spec, facts, ...)   resources in order     (pure)
    plan    = planning.make_plan(wish, ...)       create, update, adopt, keep, conflict, delete
    outcome = apply: journal line, change, manifest; then the gate; and back again if it says no

``system`` is the one door to the machine; tests hand in another. Behind ``swarmbus init`` are two functions:
`swarmbus.provision.prepare` stops before the last arrow, `swarmbus.provision.carry_out` follows it.
"""
