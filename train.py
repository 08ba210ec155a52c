"""python train.py --cfg yolov4-tiny.cfg --data coco.yaml"""

import sys

from detect_prune.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
