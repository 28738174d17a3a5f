"""Loss and gradients on the device against the CPU, in the same arithmetic."""

from __future__ import annotations

import copy

import torch

from benchmarks.gpu.record import Plan, Record
from benchmarks.gpu.shapes import network, small, stream


def one_pass(
    model: torch.nn.Module, device: str, inputs: torch.Tensor, targets: torch.Tensor, precision: str
) -> tuple[float, torch.Tensor]:
    """Loss per token in nats, and all gradients in one vector on the CPU."""
    from isotone.config.training import Training
    from isotone.data.batch import Batch
    from isotone.training.engine import Engine

    model = copy.deepcopy(model).to(device)
    training = Training(
        global_batch=len(inputs), micro_batch_size=len(inputs), length=inputs.shape[1], precision=precision
    )
    engine = Engine(model, training, torch.device(device), None)
    loss = engine.train(Batch(inputs.to(device), targets.to(device)), seed=0, step=0, micro_batch=0)
    gradients = torch.cat([value.grad.flatten().cpu() for value in model.parameters() if value.grad is not None])
    return float(loss) / inputs.numel(), gradients.double() / engine.loss_scale


def head_error(device: str, rows: int, width: int, vocabulary: int) -> tuple[float, float]:
    """Relative errors of the training head in bf16, loss and weight gradient, against fp64 on the same inputs."""
    from isotone.models.loss import Head, summed_loss

    torch.manual_seed(0)
    hidden = torch.randn(rows, width, device=device).bfloat16()
    weight = (torch.randn(vocabulary, width, device=device) * 0.05).requires_grad_()
    targets = torch.randint(0, vocabulary, (rows,), device=device)
    loss = summed_loss(hidden.requires_grad_(), Head(weight), targets)
    loss.backward()
    exact = weight.detach().bfloat16().double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(hidden.detach().double() @ exact.T, targets, reduction="sum")
    expected.backward()
    assert weight.grad is not None and exact.grad is not None
    error = (weight.grad.double() - exact.grad).norm() / exact.grad.norm()
    return abs(loss.item() / expected.item() - 1), float(error)


def run(record: Record, plan: Plan) -> None:
    """The same batch on both."""
    shape, length = small(plan), 32 if plan.tiny else 256
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_num_threads(1 if plan.tiny else 8)
    model = network(shape, length, "cpu")
    tokens = torch.from_numpy(stream(4 * length + 1, shape["vocab_size"]))
    inputs, targets = tokens[:-1].view(4, length), tokens[1:].view(4, length)
    expected, gradients = one_pass(model, "cpu", inputs, targets, "fp32")
    found, made = one_pass(model, plan.device, inputs, targets, "fp32")
    difference = abs(found - expected)
    record.row(
        "loss in fp32 less the CPU's",
        f"{difference:.1e} of {expected:.4f} nats",
        "2e-6 relative",
        difference < 2e-6 * expected,
    )
    error = float((made - gradients).norm() / gradients.norm())
    record.row("gradient in fp32 against the CPU's", f"{error:.1e} relative", "1e-4", error < 1e-4)
    found, made = one_pass(model, plan.device, inputs, targets, "bf16")
    error = float((made - gradients).norm() / gradients.norm())
    record.row(
        "loss in bf16 less fp32's",
        f"{found - expected:+.1e} nats; gradient {error:.1e} relative",
        "1e-2 nats",
        abs(found - expected) < 1e-2,
    )
    loss_error, weight_error = head_error(plan.device, *((64, 16, 512) if plan.tiny else (8192, 512, 50304)))
    record.row(
        "head in bf16 against fp64",
        f"loss {loss_error:.1e}, gradient of its weights {weight_error:.1e} relative",
        "1e-4 and 1e-2",
        loss_error < 1e-4 and weight_error < 1e-2,
    )
