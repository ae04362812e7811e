"""The real process of the plugin, called over gRPC like by the engine, with a fake engine that records log messages."""

import json
import os
import subprocess
import sys
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from google.protobuf import empty_pb2, struct_pb2
from google.protobuf.json_format import MessageToDict
from pulumi.dynamic.dynamic import serialize_provider
from pulumi.runtime.proto import engine_pb2_grpc, provider_pb2, provider_pb2_grpc

from emulator.server import EmulatorServer

REPO = Path(__file__).resolve().parents[2]


class RecordingEngine(engine_pb2_grpc.EngineServicer):
    def __init__(self):
        self.messages = []
        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
        engine_pb2_grpc.add_EngineServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def Log(self, request, context):
        self.messages.append(request)
        return empty_pb2.Empty()

    def stop(self):
        self.server.stop(0).wait()


class Plugin:
    """A plugin process, and a gRPC stub for calls."""

    def __init__(self, engine, config, env):
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "pulumi.dynamic", f"127.0.0.1:{engine.port}"],
            cwd=REPO,
            env={"PATH": os.environ["PATH"], "HOME": env["HOME"], "PULUMI_PROJECT": "vast-reranker"} | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        port = int(self.process.stdout.readline())
        self.stub = provider_pb2_grpc.ResourceProviderStub(grpc.insecure_channel(f"127.0.0.1:{port}"))
        args = {f"vast-reranker:{key}": value for key, value in config.items()}
        self.stub.Configure(provider_pb2.ConfigureRequest(args=_struct(args)))

    def stop(self):
        self.process.terminate()
        self.process.wait(10)

    def check(self, provider, olds, news, urn="urn:x"):
        pickled = serialize_provider(provider)
        answer = self.stub.Check(
            provider_pb2.CheckRequest(
                urn=urn,
                olds=_struct({**olds, "__provider": pickled} if olds else {}),
                news=_struct({**news, "__provider": pickled}),
            )
        )
        return MessageToDict(answer.inputs), [failure.reason for failure in answer.failures]

    def create(self, provider, props, urn="urn:x"):
        props = {**props, "__provider": serialize_provider(provider)}
        answer = self.stub.Create(provider_pb2.CreateRequest(urn=urn, properties=_struct(props)))
        return answer.id, MessageToDict(answer.properties)

    def diff(self, provider, id_, olds, news):
        pickled = {"__provider": serialize_provider(provider)}
        return self.stub.Diff(
            provider_pb2.DiffRequest(id=id_, urn="urn:x", olds=_struct(olds | pickled), news=_struct(news | pickled))
        )

    def read(self, provider, id_, props):
        props = {**props, "__provider": serialize_provider(provider)}
        answer = self.stub.Read(provider_pb2.ReadRequest(id=id_, urn="urn:x", properties=_struct(props)))
        return answer.id, MessageToDict(answer.properties)

    def update(self, provider, id_, olds, news):
        pickled = {"__provider": serialize_provider(provider)}
        self.stub.Update(
            provider_pb2.UpdateRequest(id=id_, urn="urn:x", olds=_struct(olds | pickled), news=_struct(news | pickled))
        )

    def delete(self, provider, id_, props):
        props = {**props, "__provider": serialize_provider(provider)}
        self.stub.Delete(provider_pb2.DeleteRequest(id=id_, urn="urn:x", properties=_struct(props)))


def _struct(values):
    struct = struct_pb2.Struct()
    struct.update(values)
    return struct


@pytest.fixture
def engine():
    recorder = RecordingEngine()
    yield recorder
    recorder.stop()


@pytest.fixture
def market(tmp_path):
    with EmulatorServer(runtime="none", time="instant", state_dir=tmp_path / "emulator") as server:
        yield server


@pytest.fixture
def plugin(engine, market, tmp_path):
    config = {"emulator": json.dumps({"url": market.url}), "vast_api_key": "emulator-key"}
    process = Plugin(engine, config, {"HOME": str(tmp_path)})
    yield process
    process.stop()
