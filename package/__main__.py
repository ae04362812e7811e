"""The fleet as a component for Pulumi programs in any language: package vast-reranker, resource Reranker.

The engine starts it as a plugin; for its use see docs/package.md. No `from __future__ import annotations` here and in
args.py: the SDK's analyzer makes the package's schema from the annotations.
"""

from typing import Optional  # the SDK's analyzer needs this form

import pulumi
from args import RerankerArgs
from pulumi.provider.experimental import component_provider_host

from components.component_args import component_settings
from components.errors import VastRerankerError
from components.fleet import RerankerFleet

NAME = "vast-reranker"
VERSION = "1.0.0"


class Reranker(pulumi.ComponentResource):
    """Validated rerankers on rented GPUs; with a gateway they have one address."""

    url: pulumi.Output[str]
    """The address for clients."""
    api_key: pulumi.Output[str]
    """The key for clients; a secret."""
    client_keys: pulumi.Output[dict[str, str]]
    """The keys of the clients in `client_keys`, by name; a secret."""
    ca_certificate: pulumi.Output[str]
    """The CA for clients, PEM."""
    model: pulumi.Output[str]
    """The model for requests."""
    hourly_cost_usd: pulumi.Output[float]
    """Dollars per hour of all rented instances."""
    curl: pulumi.Output[str]
    """A command that calls the endpoint."""

    def __init__(self, name: str, args: RerankerArgs, opts: Optional[pulumi.ResourceOptions] = None) -> None:
        try:
            settings = component_settings(args)
        except (VastRerankerError, ValueError) as error:
            raise pulumi.RunError(f"{name}: is refused; nothing is rented:\n{error}") from None
        super().__init__(f"{NAME}:index:Reranker", name, {}, opts)
        fleet = RerankerFleet(name, settings, pulumi.ResourceOptions(parent=self))
        self.url, self.ca_certificate = fleet.url, fleet.ca_certificate
        self.api_key = pulumi.Output.secret(fleet.api_key)
        self.client_keys = pulumi.Output.secret(fleet.client_keys)
        self.model = pulumi.Output.from_input(settings.model.name)
        self.hourly_cost_usd = fleet.hourly_cost_usd().apply(lambda cost: cost["total"])
        self.curl = fleet.curl()
        self.register_outputs({key: getattr(self, key) for key in type(self).__annotations__})


if __name__ == "__main__":
    component_provider_host(name=NAME, version=VERSION, components=[Reranker])
