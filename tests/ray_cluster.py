"""A Ray cluster of two nodes on this machine, in a process of its own.

It answers "kill" on its standard input by killing its newer node, and "add" by adding one.
"""

import subprocess
import sys
from contextlib import contextmanager

STORE_BYTES = 80_000_000
"""Of a node's object store, which these tests hardly use."""


class TwoNodes:
    """The cluster, as the tests see it."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.ray_cluster"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.address = self._answer()

    @contextmanager
    def one_killed(self):
        """Within the block a node has been killed, afterwards there is another one."""
        self._ask("kill")
        try:
            yield
        finally:
            self._ask("add")

    def close(self):
        self._process.stdin.close()
        self._process.wait(60)

    def _ask(self, question):
        self._process.stdin.write(f"{question}\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self):
        for line in self._process.stdout:  # Ray prints there as well
            if line.startswith("answer: "):
                return line.removeprefix("answer: ").strip()
        raise RuntimeError("the cluster has ended")


@contextmanager
def two_nodes():
    """A cluster whose nodes have one core each."""
    cluster = TwoNodes()
    try:
        yield cluster
    finally:
        cluster.close()


def serve():
    """Start the cluster, and do as asked until standard input ends."""
    import os

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": STORE_BYTES}
    head = {"num_cpus": 0, "include_dashboard": False, **small}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
    print(f"answer: {cluster.address}", flush=True)
    for question in sys.stdin:
        if question.strip() == "kill":
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        else:
            nodes.append(cluster.add_node(num_cpus=1, **small))
        print("answer: done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    serve()
