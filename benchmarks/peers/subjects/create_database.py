"""Two processes that make MLflow's database at once lose data, so it is there before the workers start."""

import mlflow

mlflow.set_experiment("bench")
