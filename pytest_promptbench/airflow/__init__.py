"""What the DAG ``bench_collect`` is made of: importable by Airflow's workers, DAG processor and triggerer.

pytest itself never runs in Airflow's interpreter. The operators start the project's own, with an argument list.
"""
