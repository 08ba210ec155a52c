"""python prune.py --cfg yolov4.cfg --ratio 0.8"""

import sys

from detect_prune.cli.prune import main

if __name__ == "__main__":
    sys.exit(main())
