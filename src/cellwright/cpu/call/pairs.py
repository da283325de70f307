"""A forward call over pairs of bfloat16: input, weights and output as they are stored.

The first state goes to the output, rounded, from where the next step multiplies it. As the
equations left it, in float32, it is carried along like the others, for those that read it.
"""

from cellwright.cpu.call.choice import ForwardWay, forward_way
from cellwright.cpu.call.forward import ForwardCall, Made
from cellwright.cpu.call.walks import Distances, Layout, Walk
from cellwright.cpu.walk.pairs import PAIRS

__all__ = ["PairedCall"]


class PairedCall(ForwardCall):
    """A forward call whose addresses of x, weights and output are of bfloat16.

    A last address follows those that ``ForwardCall`` has, if there are initial states: that of the
    first one as it is stored.
    """

    def _ways(self, layout: Layout) -> tuple[Walk, ForwardWay, bool]:
        ahead = forward_way(self.plan, layout).ahead
        way = ForwardWay(raw=False, amx=False, ahead=ahead, amx_ahead=False, raw_walk=False)
        return self.plan.paired_walk, way, False

    def _addresses(self, made: list[Made], stated: bool) -> list[list[tuple[str, int, int]]]:
        names = super()._addresses(made, stated)
        state, start, _ = self.plan.ends[0]
        for owners in names:
            owners[:] = [
                (state + PAIRS, d, on // 2) if name == state else (name, d, on)
                for name, d, on in owners
            ]
        each = self.layout.batch * self.plan.outputs // 2
        pairs = [(start + PAIRS, d, d * each) for d in self.directions]
        return [*names, pairs] if stated else names

    def _stand_ins(self) -> dict[str, str]:
        _, start, _ = self.plan.ends[0]
        return super()._stand_ins() | {start + PAIRS: "zeros"}

    def _widths(self) -> dict[str, int]:
        return {name: width // 2 for name, width in super()._widths().items()}

    def _distances(self) -> dict[str, Distances]:
        plan, rows, found = self.plan, self.rows, super()._distances()
        state, start, _ = plan.ends[0]
        width = plan.outputs // 2
        return found | {
            "x": rows.distances(plan.inputs // 2),
            state: (0, plan.outputs),
            state + PAIRS: rows.distances(len(self.directions) * width),
            start + PAIRS: (0, width),
        }
