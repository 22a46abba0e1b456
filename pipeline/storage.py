"""Move trees between this repository and the storage of a Ray cluster, `cluster.storage`, where that is a URL.

python -m pipeline.storage push data/pairs data/teacher     # from the repository
python -m pipeline.storage pull data/students/full          # and back
"""

from __future__ import annotations

from pathlib import Path

from pipeline.cluster.tree_store import TreeStore
from pipeline.stages import stage
from tsdsr.config import Params
from tsdsr.errors import UserError


def main() -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("direction", choices=("push", "pull"))
    parser.add_argument("paths", nargs="+", metavar="PATH", help="relative to the repository, such as data/pairs")
    given = parser.parse_args()
    url = Params.load(given.params).cluster.storage
    if not url or "://" not in url:
        raise UserError(f"cluster.storage is {url!r}; there is nothing to move unless it is a URL")
    store = TreeStore(url)
    for name in given.paths:
        if given.direction == "push":
            store.push(Path.cwd(), name.rstrip("/"))
        elif not store.pull(Path.cwd(), name.rstrip("/")):
            raise UserError(f"{url} holds no {name}; it has {', '.join(store.names('')) or 'nothing'}")


if __name__ == "__main__":
    stage.run(main)
