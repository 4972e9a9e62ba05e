"""The torchmetrics wrappers: batches, collections, doubled rows, and real processes."""

import ast
import math
import multiprocessing
import pickle
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, roc_auc_score

from modules.metrics import functional
from modules.metrics.ranking import AUROC, Accuracy, AveragePrecision, BalancedAccuracy, TPRAtFPR, ranking_metrics
from tests.modules.metrics import two_ranks

NAMES = {"auroc", "average_precision", "tpr_at_fpr_0.1", "tpr_at_fpr_0.05", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001"}


def test_accumulates_over_batches():
    scores, labels = two_ranks.data()
    metrics = {
        "auroc": (AUROC(), roc_auc_score(labels, scores)),
        "ap": (AveragePrecision(), average_precision_score(labels, scores)),
        "accuracy": (Accuracy(1.5), accuracy_score(labels, scores > 1.5)),
        "balanced": (BalancedAccuracy(1.5), balanced_accuracy_score(labels, scores > 1.5)),
    }
    for metric, truth in metrics.values():
        for start in range(0, 333, 64):
            metric.update(scores[start : start + 64], labels[start : start + 64])
        assert float(metric.compute()) == pytest.approx(truth, abs=1e-12)
        metric.reset()
        metric.update(scores[:50], labels[:50])
        assert float(metric.compute()) != pytest.approx(truth, abs=1e-12)


def test_threshold_is_set_later_and_none_is_nan():
    scores, labels = two_ranks.data()
    metric = Accuracy()
    metric.update(scores, labels)
    metric.threshold = 1.5
    assert float(metric.compute()) == pytest.approx(accuracy_score(labels, scores > 1.5))
    for empty in (Accuracy(), BalancedAccuracy()):
        empty.update(scores, labels)
        assert math.isnan(float(empty.compute()))


def test_doubled_rows_count_once_and_rows_without_index_all_count():
    scores, labels = two_ranks.data()
    index = torch.arange(333)
    again = torch.cat([index, index[:100], index[:7]])
    metric = AUROC()
    metric.update(scores[again], labels[again], again)
    assert float(metric.compute()) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    metric = AUROC()
    metric.update(scores[again], labels[again])
    assert float(metric.compute()) == pytest.approx(roc_auc_score(labels[again], scores[again]), abs=1e-12)


def test_collection_names_prefix_groups_and_pickle():
    scores, labels = two_ranks.data()
    metrics = ranking_metrics()
    val, test = metrics.clone(prefix="val/"), metrics.clone(prefix="test/")
    for start in range(0, 333, 64):
        val.update(scores[start : start + 64], labels[start : start + 64], index=torch.arange(333)[start : start + 64])
    val = pickle.loads(pickle.dumps(val))
    found = val.compute()
    assert set(found) == set(val.keys()) == {f"val/{name}" for name in NAMES}
    assert {name for name, _ in val.items()} == set(found)
    assert float(found["val/auroc"]) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert len(val.compute_groups) == 1
    test.update(scores[:100], labels[:100])
    assert float(test.compute()["test/auroc"]) == pytest.approx(roc_auc_score(labels[:100], scores[:100]), abs=1e-12)
    val.reset()
    val.update(scores[:90], labels[:90])
    assert float(val.compute()["val/auroc"]) == pytest.approx(roc_auc_score(labels[:90], scores[:90]), abs=1e-12)
    assert set(ranking_metrics((0.2,)).keys()) == {"auroc", "average_precision", "tpr_at_fpr_0.2"}


@pytest.mark.filterwarnings("ignore")
def test_row_35_nothing_one_class_and_nan_are_nan():
    metric = TPRAtFPR(0.1)
    assert math.isnan(float(metric.compute()))
    metric.reset()
    metric.update(torch.tensor([1.0, 2.0]), torch.tensor([0, 0]))
    assert math.isnan(float(metric.compute()))
    metric.update(torch.tensor([math.nan]), torch.tensor([1]))
    assert math.isnan(float(metric.compute()))


def test_scores_keep_their_precision_and_gradients_are_dropped():
    metric = AUROC()
    scores = torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64, requires_grad=True)
    metric.update(scores, torch.tensor([0, 1]))
    assert float(metric.compute()) == 1
    assert not metric.scores[0].requires_grad


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"all \[B\]; got \[4, 1\], \[4\], \[4\]"):
        AUROC().update(torch.zeros(4, 1), torch.zeros(4))
    with pytest.raises(ValueError, match=r"all \[B\]"):
        AUROC().update(torch.zeros(4), torch.zeros(4), torch.arange(3))


def test_two_processes_agree_with_one(tmp_path):
    multiprocessing.set_forkserver_preload(["modules.metrics.ranking"])  # imports once for both, in a process without threads
    mp.start_processes(two_ranks.run, args=(tmp_path / "meeting", str(tmp_path)), nprocs=2, start_method="forkserver")
    scores, labels = two_ranks.data()
    metrics = ranking_metrics().clone(prefix="test/")
    metrics.update(scores.float(), labels)
    expected = {name: float(value) for name, value in metrics.compute().items()}
    for kind in ("uneven", "empty"):
        for rank in (0, 1):
            assert torch.load(tmp_path / f"{kind}-{rank}.pt") == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_functions_import_nothing_but_torch():
    tree = ast.parse(Path(functional.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names - set(sys.stdlib_module_names) == {"torch"}


def test_a_rate_that_too_few_reals_can_tell_is_nan():
    scores, labels = torch.arange(60.0), torch.tensor([0, 1, 1] * 20)
    for fpr, told in ((0.05, True), (0.01, False)):
        metric = TPRAtFPR(fpr)
        metric.update(scores, labels)
        assert bool(torch.isnan(metric.compute())) is not told
