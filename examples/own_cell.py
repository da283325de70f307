"""A cell of one's own on the adding problem: train it, then ask how it runs.

Each step has a number and a mark, two steps are marked, and the network is to tell the sum of the
two marked numbers after the last step (Hochreiter & Schmidhuber 1997). Guessing 1 gives a loss of
about 0.17.
"""

import torch

import cellwright as cw
import cellwright.nn as nn
from cellwright import sigmoid, tanh

STEPS, BATCH, HIDDEN, TRAININGS = 20, 64, 32, 300


@cw.cell
def minimal_gated_unit(x, h):
    """One gate, which resets the state and updates it. Zhou et al. 2016."""
    f = sigmoid(x.f + h.f)
    n = tanh(x.n + (f * h).n)
    return h + f * (n - h)


def draw() -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch (L, N, 2) and its sums (N, 1)."""
    numbers, marks = torch.rand(STEPS, BATCH), torch.zeros(STEPS, BATCH)
    middle = STEPS // 2
    marks.scatter_(0, torch.randint(0, middle, (1, BATCH)), 1.0)
    marks.scatter_(0, torch.randint(middle, STEPS, (1, BATCH)), 1.0)
    return torch.stack((numbers, marks), dim=-1), (numbers * marks).sum(0)[:, None]


def main() -> None:
    """Train, printing the loss, and print the equations and the kernel."""
    torch.manual_seed(0)
    model = nn.SequenceModel(minimal_gated_unit, 2, HIDDEN, 1, readout="last", readout_bias=True)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(TRAININGS + 1):
        x, sums = draw()
        guess, _ = model(x)
        loss = nn.functional.mse_loss(guess, sums)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 100 == 0:
            print(f"step {step:3}  loss {loss.item():.4f}")
    print()
    print(*cw.describe(minimal_gated_unit).equations, sep="\n")
    print()
    print(cw.explain(model, x))


if __name__ == "__main__":
    main()
