"""The policy head against torch's own layers, and its losses."""

import torch
import torch.nn.functional as F

from polymodal.check import randomise
from polymodal.generators.recurrent_policy import RecurrentPolicyConfig, policy_losses


def test_heads_on_an_lstm() -> None:
    policy = RecurrentPolicyConfig(hidden=6, depth=2).build(5).eval()
    randomise.fill(policy)
    lstm = torch.nn.LSTM(5, 6, 2, batch_first=True)
    lstm.load_state_dict(policy.rnn.state_dict())
    steps = torch.randn(2, 4, 5)
    x, y = lstm(steps)[0], lstm(steps)[0]
    for index in range(4):
        x, y = policy.pose[index](x), policy.gripper[index](y)
        x, y = (x, y) if index == 3 else (x.relu(), y.relu())
    pose, gripper = policy(steps)
    assert (pose - x.tanh()).abs().max() < 1e-6 and (gripper - y.sigmoid()).abs().max() < 1e-6
    longer = policy(torch.cat((steps, torch.randn(2, 1, 5)), 1))[0]
    assert (longer[:, :4] - pose).abs().max() < 1e-6  # a step does not see later ones


def test_pooling_takes_padding_along() -> None:
    states = torch.tensor([[[1.0, -1.0], [0.0, 5.0], [3.0, 0.0]]])
    assert RecurrentPolicyConfig(hidden=2, depth=1).build(2).pool(states).tolist() == [[3.0, 5.0]]
    mean = RecurrentPolicyConfig(hidden=2, depth=1, pooling="avg").build(2).pool(states)
    assert torch.allclose(mean, states.mean(1))


def test_losses_are_those_of_torch() -> None:
    torch.manual_seed(0)
    pose, gripper, actions = torch.rand(2, 3, 6), torch.rand(2, 3, 1), torch.rand(2, 3, 7) * 2 - 1
    actions[..., 6] = torch.tensor([[1.0, -1, 1], [-1, -1, 1]])
    found = policy_losses(pose, gripper, actions, 0.01)
    opened = (actions[..., 6:] > 0).float()
    assert torch.allclose(found["pose"], F.huber_loss(pose, actions[..., :6]))
    assert torch.allclose(found["gripper"], 0.01 * F.binary_cross_entropy(gripper, opened))
