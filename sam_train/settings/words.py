"""Words of other training programs, and their names here.

Only those that no likeness of letters finds; `explain` asks here first.
"""

from __future__ import annotations

_STEPS = "trainer.max_steps=N counts updates; E epochs are N = E x photos / data.batch_size"
_SAVED = "checkpoint.every_steps=N, checkpoint.every_minutes=M and checkpoint.keep_last=K"
_WEIGHTS = (
    "init_from=PATH starts from weights, resume=PATH continues a run of fit, and ckpt=PATH is what "
    "validate, evaluate, generate and export look at"
)
_DATA = "data.train=PATH names what is trained on, data.val=PATH what is measured on"
_FOLDER = "everything of a run is written to run_dir=DIR"
_HALF = (
    "trainer.precision=bf16-mixed, or trainer.precision=16-mixed for GPUs without bfloat16 (T4, "
    "V100, RTX 20, GTX 16)"
)
_DEVICES = (
    "trainer.devices=2 or trainer.devices=[0,1] says how many or which, trainer.accelerator=gpu or "
    "cpu of which kind"
)
_LOGGERS = "logger=wandb or logger=tensorboard; metrics.csv is always written"
_STOP = (
    "checkpoint.patience=N ends a run after N measurements without a better checkpoint.metric, and "
    "checkpoint.keep_best=1 keeps the best"
)
_ACCUMULATE = (
    "data.batch_size counts the images of an update over all GPUs, trainer.accumulate=N splits "
    "them into N turns"
)
_LR = "optim.lr=1e-4"
_CLIP = "optim.grad_clip=1.0"
_VALIDATION = "callbacks.validation.every=N"

_MEANINGS: dict[str, str] = {
    "epoch epochs maxepochs numepochs nepochs trainepochs numtrainepochs totalepochs": _STEPS,
    "steps numsteps maxiter maxiters iterations iters niter totalsteps maxsteps": _STEPS,
    "device cuda gpu gpus ngpus numgpus gpuid gpuids cpu mps": _DEVICES,
    "nproc nprocpernode worldsize": _DEVICES,
    "nodes nnodes numnodes": "trainer.num_nodes=N",
    "perdevicetrainbatchsize perdevicebatchsize trainbatchsize microbatchsize bs": _ACCUMULATE,
    "accumulategradbatches gradientaccumulationsteps accumsteps gradaccum accumiter": _ACCUMULATE,
    "learningrate baselr maxlr initlr lr0": _LR,
    "wd": "optim.weight_decay=0.1",
    "optimizer optimiser": "optim.name=adamw or optim.name=muon",
    "scheduler lrscheduler lrschedule": "optim.schedule=NAME",
    "warmup warmupsteps warmupepochs warmupratio": "optim.warmup_steps=N, in updates",
    "clipgrad clipgradnorm gradientclipval gradclipval maxgradnorm gradclipnorm": _CLIP,
    "numworkers nworkers dataloaderworkers dataloadernumworkers": "data.workers=N",
    "checkpoint weights pretrained pretrainedweights modelpath modelcheckpoint ckptpath": _WEIGHTS,
    "checkpointpath samcheckpoint loadfrom load restore weightspath resumefrom": _WEIGHTS,
    "resumefromcheckpoint": _WEIGHTS,
    "fp16 half float16 amp usefp16 mixedprecision useamp bf16 bfloat16 usebf16 tf32": _HALF,
    "data dataset datasets datadir dataroot datapath traindata traindir trainpath": _DATA,
    "images imagedir imagesdir annotations annfile valdata valdir valpath cocopath": _DATA,
    "imagesize imgsize imgsz inputsize resolution": "model.image_size=1024",
    "modeltype modelname arch backbone encoder vittype": "model=vit_b, vit_l or vit_h",
    "outputdir outdir savedir logdir workdir savepath outputpath output expdir project": _FOLDER,
    "expname experimentname runname": "name=NAME, which run_dir and loggers use",
    "wandb usewandb tensorboard usetensorboard reportto logwith": _LOGGERS,
    "wandbproject wandbprojectname": "logger.project=NAME beside logger=wandb",
    "wandbentity": "logger.entity=NAME beside logger=wandb",
    "patience earlystopping earlystop earlystoppingpatience": _STOP,
    "saveevery saveinterval savesteps savefreq savestrategy ckptinterval": _SAVED,
    "evalevery evalinterval evalsteps valinterval valcheckinterval evalfreq valevery": _VALIDATION,
    "logevery loginterval loggingsteps logeverynsteps printfreq": "trainer.log_every=N",
    "randomseed manualseed": "seed=N",
    "freeze freezeencoder freezeimageencoder frozen freezebackbone": (
        "optim.tune=decoder keeps the image encoder as it is, optim.frozen_blocks=N its first N "
        "blocks"
    ),
    "uselora lorar lorarank peft adapter adapters": "optim.tune=lora beside lora.rank=4",
    "loraalpha": "lora.alpha",
    "loratargets loratargetmodules targetmodules": "lora.targets=[q,v]",
    "ema usemodelema emadecay": "optim.ema=0.999",
    "gradientcheckpointing activationcheckpointing": "model.checkpoint_blocks=selective or full",
    "compile torchcompile": "trainer.compile=true",
    "ddp fsdp deepspeed zero distributed": "trainer.strategy=ddp, fsdp2 or deepspeed",
    "debug": "+debug=overfit, profile, deterministic or anomaly",
}
_WORDS = {word: meaning for words, meaning in _MEANINGS.items() for word in words.split()}

PRECISIONS = {
    **dict.fromkeys(("16", "fp16", "float16", "half", "16-true", "fp16-mixed"), "16-mixed"),
    **dict.fromkeys(("bf16", "bfloat16", "bf16-true", "bfloat16-mixed", "mixed"), "bf16-mixed"),
    **dict.fromkeys(("32", "fp32", "float32", "float", "full", "tf32"), "32-true"),
    **dict.fromkeys(("64", "fp64", "float64", "double"), "64-true"),
}
"""Other programs' names for the values of `trainer.precision`."""


def meaning_of(key: str) -> str | None:
    """Return the settings here that `key` stands for elsewhere; None for an unknown word."""
    word = key.rpartition(".")[2].lower().replace("_", "").replace("-", "")
    return _WORDS.get(word)
