"""deepeval's smallest metric of one's own."""

from deepeval.metrics import BaseMetric
from deepeval.test_case import LLMTestCase


class Contains(BaseMetric):
    threshold = 1.0
    async_mode = True
    include_reason = strict_mode = skipped = False
    evaluation_model = error = reason = None
    evaluation_cost = 0.0

    def measure(self, test_case: LLMTestCase, *_: object, **__: object) -> float:
        self.score = float(test_case.expected_output in test_case.actual_output)
        self.success = self.score >= self.threshold
        return self.score

    async def a_measure(self, test_case: LLMTestCase, *_: object, **__: object) -> float:
        return self.measure(test_case)

    def is_successful(self) -> bool:
        return self.success

    @property
    def __name__(self) -> str:
        return "Contains"
