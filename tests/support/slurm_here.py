"""Slurm's commands for one machine that plays several nodes: jobs are what sbatch is given, run at once.

``install(folder)`` writes sbatch, srun, sacct and scancel; with the folder in PATH, submitit finds a cluster.
Scripts are kept as they came (``<folder>/<job>.sh``). A node's task gets the variables that Slurm gives it.
"""

import sys
from pathlib import Path

SBATCH = """
import os, re, subprocess, sys
here = os.path.dirname(os.path.abspath(sys.argv[0]))
script = open(sys.argv[-1]).read()
job = str(1000 + sum(name.endswith(".sh") for name in os.listdir(here)))
open(f"{here}/{job}.sh", "w").write(script)
asked = dict(re.findall(r"#SBATCH --([a-z-]+)=(.*)", script))
nodes = asked.get("nodes", "1")
env = {**os.environ, "SLURM_JOB_ID": job, "SLURM_JOB_NUM_NODES": nodes, "SLURM_NTASKS": nodes}
env |= {"SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_SCRIPT": f"{here}/{job}.sh"}
run = f"bash {here}/{job}.sh; echo $? > {here}/{job}.end"
started = subprocess.Popen(["bash", "-c", run], env=env, start_new_session=True, stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
open(f"{here}/{job}.pid", "w").write(str(started.pid))
print(f"Submitted batch job {job}")
"""
SRUN = """
import os, subprocess, sys
words = sys.argv[1:]
while words and words[0].startswith("-"):
    flag = words.pop(0)
    if flag in ("--output", "--error"):
        words.pop(0)
count = int(os.environ["SLURM_NTASKS"])
tasks = []
for node in range(count):
    env = {**os.environ, "SLURM_PROCID": str(node), "SLURM_NODEID": str(node), "SLURM_LOCALID": "0"}
    tasks.append(subprocess.Popen(words, env=env))
sys.exit(max(task.wait() for task in tasks))
"""
SACCT = """
import os, sys
here = os.path.dirname(os.path.abspath(sys.argv[0]))
print("JobID|State|NodeList")
for name in os.listdir(here):
    if name.endswith(".sh"):
        job = name[:-3]
        end = f"{here}/{job}.end"
        done = os.path.exists(end)
        state = "RUNNING" if not done else "COMPLETED" if open(end).read().strip() == "0" else "FAILED"
        print(f"{job}|{state}|localhost")
"""
SCANCEL = """
import os, signal, sys
here = os.path.dirname(os.path.abspath(sys.argv[0]))
try:
    os.killpg(int(open(f"{here}/{sys.argv[-1].split('_')[0]}.pid").read()), signal.SIGKILL)
except (OSError, ValueError):
    pass
"""


def install(folder: Path) -> None:
    """Writes the commands into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    commands = {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT, "scancel": SCANCEL}
    for name, code in commands.items():
        path = folder / name
        path.write_text(f"#!{sys.executable}\n{code.lstrip()}")
        path.chmod(0o755)
