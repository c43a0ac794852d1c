#!/usr/bin/env bash
# Runs the configurations whose results small.json records: small.sh OUTPUT_DIR, in a checkout.
set -euo pipefail
out=$1
run() {
  .venv/bin/python tools/run_stage.py dataset=demo clip=demo dataset.limit=16 output_dir="$out" "$@"
}
until_masks="stage=[tags,cams,masks]"
short="segmenter.iterations=12 segmenter.validation_interval"
run rounds=2 $short=6 segmenter.checkpoint_interval=6
run $until_masks tags=clip
run $until_masks tags=ground_truth cams=clip_es_voc2012
run $until_masks tags=file tags.path="$(dirname "$0")/tags.txt" masks=argmax compat=clean
run $until_masks tags.variants=[clip,clip_native,coarse_last,coarse,dmar,cwr] \
  masks=crf_confident runtime.precision=bf16 images.longest_side=200
run $until_masks tags=tagclip_cocostuff cams=cls_seg_cocostuff masks.beta=null dataset.split=val
run stage=[tags,cams,masks,train,predict] executor=processes segmenter.iterations=8 \
  segmenter.validation_interval=null seed=1 segmenter.test.scales=[1.0]
run rounds=2 $short=null self_training.keep_tags=false segmenter.ceiling=false
